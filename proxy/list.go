package proxy

// links holds circular doubly-linked lists of small numbers: a flow's slot, or one of the list heads, whose numbers
// follow those of the slots. Every slot is in at most one list.
type links []link

type link struct{ next, prev uint32 }

// init makes n an empty list, or a member of none.
func (l links) init(n uint32) { l[n] = link{n, n} }

// empty says whether the list at head has no members.
func (l links) empty(head uint32) bool { return l[head].next == head }

// first is the oldest member of the list at head, which is not empty.
func (l links) first(head uint32) uint32 { return l[head].next }

// push makes n, which is in no list, the newest member.
func (l links) push(head, n uint32) {
	last := l[head].prev
	l[n] = link{next: head, prev: last}
	l[last].next = n
	l[head].prev = n
}

// pushFront makes n, which is in no list, the oldest member.
func (l links) pushFront(head, n uint32) { l.push(l[head].next, n) }

// unlink takes n out of the list it is in, if any.
func (l links) unlink(n uint32) {
	at := l[n]
	l[at.prev].next = at.next
	l[at.next].prev = at.prev
	l.init(n)
}
