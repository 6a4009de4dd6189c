package proxy

import (
	"fmt"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"levee/stack"
)

// earlyPool holds what clients send before their servers have answered. It is a fixed number of chunks. Those of a flow
// are a chain in the order of the client's stream, without overlap, possibly with gaps. Nothing is held for a
// client that has not returned a cookie.
type earlyPool struct {
	chunks []chunk
	// used is how many chunks are in chains. It is written with mu locked, and read at any time.
	used atomic.Int64
	// Whoever promises windows shares no cache line with those who take chunks.
	_ [64]byte

	// mu guards what follows, and next of the chunks that are free. The chunks of a chain belong to whoever has its flow's stripe locked.
	mu sync.Mutex
	// free is the first of the chunks that have been used before.
	free chunkRef
	// fresh is how many chunks have been used ever. The memory of the others has never been touched, and need not be there.
	fresh uint32
}

// chunkRef is the number of a chunk, counted from 1; 0 is none.
type chunkRef = uint32

// chunk is a piece of one segment's payload. A test pins its size.
type chunk struct {
	next chunkRef
	// offset of the first byte in the client's stream: 0 is the byte after its SYN.
	offset uint16
	// length is 0 only for a FIN that came without payload.
	length uint16
	// urgent is the urgent pointer, counted from offset, if flags has URG.
	urgent uint16
	// flags of the segment as far as they are about this piece: PSH and FIN on its last, URG.
	flags header.TCPFlags
	// trafficClass of the segment's packet: a congestion mark is for the server to see.
	trafficClass uint8
	data         [chunkData]byte
}

const (
	// chunkSize is small because most early data is a request of some hundred bytes.
	chunkSize = 512
	chunkData = chunkSize - 12
)

func (c *chunk) end() int { return int(c.offset) + int(c.length) }

// earlySegment is what of a client's segment is to be held.
type earlySegment struct {
	// offset of data in the client's stream, see chunk.
	offset int
	// data is only read.
	data []byte
	// flags that count are FIN, PSH and URG; urgent is counted from offset.
	flags        header.TCPFlags
	urgent       uint16
	trafficClass uint8
}

// holdResult says what became of an earlySegment.
type holdResult uint8

const (
	// holdKnown: all of it is held already, or contradicts what is.
	holdKnown holdResult = iota
	// holdNew: some of it is held that was not before.
	holdNew
	// holdFull: there was no room for all of it. What was not held the client sends again.
	holdFull
)

// newEarlyPool makes a pool of at most so many bytes; 0 makes one in which nothing has room.
func newEarlyPool(bytes int, allocate func(bytes int) ([]byte, error)) (*earlyPool, error) {
	p := &earlyPool{}
	n := bytes / chunkSize
	if n == 0 {
		return p, nil
	}
	memory, err := allocate(carved[chunk](n))
	if err != nil {
		return nil, fmt.Errorf("memory for %d bytes of early data: %w", bytes, err)
	}
	p.chunks = carve[chunk](&memory, n)
	return p, nil
}

// inviting says whether clients may be told to send before their servers have answered. The half of the
// pool that is then still free is for those who have been told.
func (p *earlyPool) inviting() bool { return int(p.used.Load()) < len(p.chunks)/2 }

// level is how many bytes of the pool are in use, and of how many.
func (p *earlyPool) level() (used, size int) {
	return int(p.used.Load()) * chunkSize, len(p.chunks) * chunkSize
}

// at is the chunk with a number, nil for none.
func (p *earlyPool) at(r chunkRef) *chunk {
	if r == 0 {
		return nil
	}
	return &p.chunks[r-1]
}

// take takes a free chunk, whose content is whatever it was before. 0 says that there is none.
func (p *earlyPool) take() chunkRef {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.free
	switch {
	case r != 0:
		p.free = p.at(r).next
	case int(p.fresh) < len(p.chunks):
		p.fresh++
		r = p.fresh
	default:
		return 0
	}
	p.used.Add(1)
	return r
}

// drop frees a chain.
func (p *earlyPool) drop(head *chunkRef) {
	if *head == 0 {
		return
	}
	last, n := p.at(*head), int64(1)
	for ; last.next != 0; n++ {
		last = p.at(last.next)
	}
	p.mu.Lock()
	last.next, p.free = p.free, *head
	p.used.Add(-n)
	p.mu.Unlock()
	*head = 0
}

// most is how many chunks a flow may have that may hold so many bytes: at most twice their memory, however small the pieces are in
// which they come.
func most(limit int) int { return max(2*limit/chunkSize, 1) }

// hold adds a segment to a chain. Of each byte of the stream the first copy counts, up to limit bytes of the stream in all.
func (p *earlyPool) hold(head *chunkRef, s earlySegment, limit int) holdResult {
	result := holdKnown
	if s.offset+len(s.data) > limit {
		s.data = s.data[:max(limit-s.offset, 0)]
		s.flags &^= flagFIN | flagPSH
		result = holdFull
	}
	room := most(limit)
	for c := p.at(*head); c != nil; c = p.at(c.next) {
		room--
	}
	at, link := s.offset, head
	for data := s.data; len(data) > 0; {
		space := min(len(data), chunkData)
		if here := p.at(*link); here != nil {
			switch {
			case here.end() <= at && here.flags&flagFIN != 0:
				return result // nothing comes after a FIN
			case here.end() <= at:
				link = &here.next
				continue
			case int(here.offset) <= at:
				known := min(here.end()-at, len(data))
				at, data = at+known, data[known:]
				continue
			}
			space = min(space, int(here.offset)-at)
		}
		r := chunkRef(0)
		if room > 0 {
			r = p.take()
		}
		if r == 0 {
			return holdFull
		}
		room--
		c := p.at(r)
		n := copy(c.data[:space], data)
		c.next, c.offset, c.length = *link, uint16(at), uint16(n)
		c.flags, c.urgent, c.trafficClass = 0, 0, s.trafficClass
		if past := at - s.offset; s.flags&flagURG != 0 && int(s.urgent) > past {
			c.flags, c.urgent = flagURG, s.urgent-uint16(past)
		}
		if n == len(data) {
			c.flags |= s.flags & flagPSH
		}
		*link = r
		at, data, link = at+n, data[n:], &c.next
		if result != holdFull {
			result = holdNew
		}
	}
	if s.flags&flagFIN == 0 {
		return result
	}
	return max(result, p.holdFIN(head, &s, room))
}

// holdFIN adds the FIN of a segment whose payload is held.
func (p *earlyPool) holdFIN(head *chunkRef, s *earlySegment, room int) holdResult {
	at := s.offset + len(s.data)
	var last *chunk
	link := head
	for ; *link != 0; link = &last.next {
		last = p.at(*link)
		if last.end() > at || last.flags&flagFIN != 0 {
			return holdKnown
		}
	}
	if last == nil || last.end() < at {
		r := chunkRef(0)
		if room > 0 {
			r = p.take()
		}
		if r == 0 {
			return holdFull
		}
		*link, last = r, p.at(r)
		last.next, last.offset, last.length = 0, uint16(at), 0
		last.flags, last.urgent, last.trafficClass = 0, 0, s.trafficClass
	}
	last.flags |= flagFIN | s.flags&flagPSH
	return holdNew
}

// early is the head of the chain of a flow whose server has not answered: it is kept where the server's largest window will be.
func (f *flow) early() *chunkRef { return &f.half[server].maxWindow }

// sent is the sequence number behind all that the client of such a flow has sent, whether there was room for it or not: there it resets. It is
// kept where the server's will be.
func (f *flow) sent() *seqnum.Value { return &f.half[server].end }

// noteSent is for a segment of the client's while its server has not answered.
func (f *flow) noteSent(p *stack.Packet) {
	if end := p.End(); f.sent().LessThan(end) {
		*f.sent() = end
	}
}
