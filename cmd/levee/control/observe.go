package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"levee/proxy"
)

// Observation is one line of the answer to observe: a decision, or how many were shown so far. Exactly one field is set.
type Observation struct {
	Decision *Decision `json:"decision,omitempty"`
	Sample   *Sample   `json:"sample,omitempty"`
}

// Sample says how much of what there was has been shown. It comes once a second and at the end.
type Sample struct {
	Shown   uint64 `json:"shown"`
	Matched uint64 `json:"matched"`
}

// Decision is what levee did with one packet, see proxy.Decision.
type Decision struct {
	Time    time.Time `json:"time"`
	Verdict string    `json:"verdict"`
	// Reason is empty unless the verdict is drop or pass.
	Reason  string `json:"reason"`
	Service string `json:"service"`
	// Src and Dst have port 0 if the packet is not TCP, and are "[::]:0" if it was too broken to tell.
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
	// Protocol is the IP protocol number. Flags are the letters of tcpdump: F, S, R, P, "." for ACK, U, E, W.
	Protocol uint8  `json:"protocol"`
	Flags    string `json:"flags"`
	Seq      uint32 `json:"seq"`
	Ack      uint32 `json:"ack"`
	// Payload of TCP and Length of the IP packet are in bytes.
	Payload int `json:"payload"`
	Length  int `json:"length"`
	// Data is the beginning of the IP packet, in base64; only if it was asked for.
	Data []byte `json:"data,omitempty"`
}

func newDecision(d *proxy.Decision) *Decision {
	return &Decision{
		Time: d.At, Verdict: d.Verdict.String(), Reason: d.Reason(), Service: d.Service,
		Src: netip.AddrPortFrom(d.Src.Netip(), d.SrcPort), Dst: netip.AddrPortFrom(d.Dst.Netip(), d.DstPort),
		Protocol: d.Protocol, Flags: flagLetters(d.Flags), Seq: uint32(d.Seq), Ack: uint32(d.Ack), Payload: d.Payload, Length: d.Length,
		Data: slices.Clone(d.Data[:d.Captured]),
	}
}

func flagLetters(f header.TCPFlags) string {
	var b strings.Builder
	for i, letter := range "FSRP.UEW" {
		if f&(1<<i) != 0 {
			b.WriteRune(letter)
		}
	}
	return b.String()
}

// Watch is what observe is asked for. Empty fields want everything.
type Watch struct {
	// Verdicts and Reasons are words, see VerdictWords and ReasonWords.
	Verdicts, Reasons []string
	Service           string
	Prefix            netip.Prefix
	// Rate is how many decisions a second are shown at most; 0 means DefaultWatchRate.
	Rate int
	// Bytes asks for Decision.Data.
	Bytes bool
	// Count ends it after so many decisions, For after so long; 0 is no limit.
	Count int
	For   time.Duration
}

// DefaultWatchRate is more than anybody can read.
const DefaultWatchRate = 100

// VerdictWords are the words for verdicts.
func VerdictWords() []string {
	var words []string
	for _, v := range proxy.Verdicts() {
		words = append(words, v.String())
	}
	return words
}

// ReasonWords are the words for why packets are dropped or passed. Some are for both.
func ReasonWords() []string {
	var words []string
	for r := range proxy.NumDropReasons {
		words = append(words, r.String())
	}
	for r := range proxy.NumPassReasons {
		if !slices.Contains(words, r.String()) {
			words = append(words, r.String())
		}
	}
	return words
}

func (w Watch) query() url.Values {
	q := url.Values{"verdict": w.Verdicts, "reason": w.Reasons, "service": {w.Service}, "rate": {strconv.Itoa(w.Rate)},
		"bytes": {strconv.FormatBool(w.Bytes)}, "count": {strconv.Itoa(w.Count)}, "for": {w.For.String()}}
	if w.Prefix.IsValid() {
		q.Set("prefix", w.Prefix.String())
	}
	return q
}

func parseWatch(q url.Values, services []string) (w Watch, err error) {
	w = Watch{Verdicts: q["verdict"], Reasons: q["reason"], Service: q.Get("service"), Bytes: q.Get("bytes") == "true"}
	if err := checkService(w.Service, services); err != nil {
		return w, err
	}
	if text := q.Get("prefix"); text != "" {
		if w.Prefix, err = netip.ParsePrefix(text); err != nil {
			return w, fmt.Errorf("prefix %q is none: write 192.0.2.0/24 or 2001:db8::/64", text)
		}
	}
	for _, number := range []struct {
		name string
		to   *int
	}{{"rate", &w.Rate}, {"count", &w.Count}} {
		if text := q.Get(number.name); text != "" {
			if *number.to, err = strconv.Atoi(text); err != nil || *number.to < 0 {
				return w, fmt.Errorf("%s %q is not a number: use 0 or more", number.name, text)
			}
		}
	}
	if text := q.Get("for"); text != "" {
		if w.For, err = time.ParseDuration(text); err != nil || w.For < 0 {
			return w, fmt.Errorf("for %q is not a duration: write 10s", text)
		}
	}
	return w, nil
}

// interest is w in the proxy's terms.
func (w Watch) interest() (proxy.Interest, error) {
	in := proxy.Interest{Service: w.Service, Rate: w.Rate, Bytes: w.Bytes}
	if w.Rate == 0 {
		in.Rate = DefaultWatchRate
	}
	if w.Prefix.IsValid() {
		in.Prefix = w.Prefix.Masked()
	}
	for _, word := range w.Verdicts {
		i := slices.Index(VerdictWords(), word)
		if i < 0 {
			return in, fmt.Errorf("%q is not a verdict: use one of %s", word, strings.Join(VerdictWords(), ", "))
		}
		in.Verdicts = append(in.Verdicts, proxy.Verdicts()[i])
	}
	for _, word := range w.Reasons {
		if !slices.Contains(ReasonWords(), word) {
			return in, fmt.Errorf("%q is not a reason: use one of %s", word, strings.Join(ReasonWords(), ", "))
		}
		for r := range proxy.NumDropReasons {
			if r.String() == word {
				in.Drops = append(in.Drops, r)
			}
		}
		for r := range proxy.NumPassReasons {
			if r.String() == word {
				in.Passes = append(in.Passes, r)
			}
		}
	}
	return in, nil
}

// Check says what is wrong with the words.
func (w Watch) Check() error {
	_, err := w.interest()
	return err
}

// Pauses of the server between two looks, and between two samples.
const (
	lookEvery   = 50 * time.Millisecond
	sampleEvery = time.Second
)

func serveObserve(w http.ResponseWriter, r *http.Request, source Source) {
	watch, err := parseWatch(r.URL.Query(), source.Services())
	var in proxy.Interest
	if err == nil {
		in, err = watch.interest()
	}
	var o *proxy.Observer
	if err == nil {
		o, err = source.Observe(in)
	}
	switch {
	case errors.Is(err, proxy.ErrTooManyObservers):
		refuse(w, http.StatusConflict, err)
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, err)
		return
	}
	defer o.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	stream := newLines(w)
	ctx := r.Context()
	if watch.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, watch.For)
		defer cancel()
	}
	if err := observe(ctx, o, watch.Count, stream); err != nil {
		panic(http.ErrAbortHandler) // the client sees that it was cut off
	}
}

// observe writes what there is to see until ctx is done or count decisions are written.
func observe(ctx context.Context, o *proxy.Observer, count int, stream *lines) error {
	look, sample := time.NewTicker(lookEvery), time.NewTicker(sampleEvery)
	defer look.Stop()
	defer sample.Stop()
	tell := func() error {
		shown, matched := o.Counts()
		return stream.write(Observation{Sample: &Sample{shown, matched}})
	}
	if err := tell(); err != nil { // and the client knows that it has begun
		return err
	}
	var seen []proxy.Decision
	written := 0
	for {
		done := false
		select {
		case <-ctx.Done():
			done = true
		case <-sample.C:
			if err := tell(); err != nil {
				return err
			}
			continue
		case <-look.C:
		}
		seen = o.Read(seen[:0])
		for i := range seen {
			if err := stream.put(Observation{Decision: newDecision(&seen[i])}); err != nil {
				return err
			}
			if written++; written == count {
				done = true
				break
			}
		}
		if done {
			shown, matched := o.Counts()
			if count > 0 {
				shown = min(shown, uint64(written))
			}
			return stream.write(Observation{Sample: &Sample{shown, matched}})
		}
		if len(seen) > 0 {
			if err := stream.flush(); err != nil {
				return err
			}
		}
	}
}

// lines writes JSON objects, one a line, and gives the client chunkTimeout for each flush.
type lines struct {
	control *http.ResponseController
	buffer  *bufio.Writer
	encoder *json.Encoder
}

func newLines(w http.ResponseWriter) *lines {
	l := &lines{control: http.NewResponseController(w), buffer: bufio.NewWriterSize(w, 64<<10)}
	l.encoder = json.NewEncoder(l.buffer)
	return l
}

// put buffers v, or writes what no longer fits.
func (l *lines) put(v any) error {
	if err := l.control.SetWriteDeadline(time.Now().Add(chunkTimeout)); err != nil {
		return err
	}
	return l.encoder.Encode(v)
}

func (l *lines) flush() error { return errors.Join(l.buffer.Flush(), l.control.Flush()) }

func (l *lines) write(v any) error { return errors.Join(l.put(v), l.flush()) }

// Observe asks for decisions and calls yield for each line as it arrives, until the daemon has no more to say. An error of yield, or of
// ctx, ends it and is returned.
func (c *Client) Observe(ctx context.Context, w Watch, yield func(Observation) error) error {
	return stream(ctx, c, http.MethodGet, "/v1/observe?"+w.query().Encode(), yield)
}

// stream calls yield for each line of an answer.
func stream[T any](ctx context.Context, c *Client, method, path string, yield func(T) error) error {
	body, err := c.ask(ctx, method, path)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var v T
		switch err := dec.Decode(&v); {
		case err == io.EOF: // a wrapped one is an answer that was cut off
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return c.explain(err)
		}
		if err := yield(v); err != nil {
			return err
		}
	}
}
