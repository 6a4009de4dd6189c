package tunnel

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkEchoBulk is one TCP connection that sends 16 MiB through the TUN and gets them
// back, echo only: the upper bound of what levee can forward.
func BenchmarkEchoBulk(b *testing.B) {
	g := newGateway(b, 1)
	wait := g.echo(b, func([]byte) {})
	const size = 16 << 20
	b.SetBytes(2 * size)
	b.ReportAllocs()
	for b.Loop() {
		g.transfer(b, networks[0], size)
	}
	s := g.device.Queues()[0].Stats()
	b.ReportMetric(float64(s.RecvBytes)/float64(s.RecvFrames), "bytes/frame")
	b.ReportMetric(float64(s.RecvFrames)/float64(s.Batches), "frames/batch")
	g.device.Close()
	wait()
}

// BenchmarkEchoSmall is a flood of small packets that pass the TUN and go on to the server,
// echo only: what a SYN flood costs before the proxy looks at it. One operation is one packet.
func BenchmarkEchoSmall(b *testing.B) {
	g := newGateway(b, 1)
	q := g.device.Queues()[0]
	g.server.do(b, func() error { // takes them silently, or the server would answer with ICMP
		sink, err := net.ListenPacket("udp", networks[0].server+":9")
		if err == nil {
			b.Cleanup(func() { sink.Close() })
		}
		return err
	})
	fd := g.client.dial(b, unix.SOCK_DGRAM, networks[0].server+":9")
	var stop atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		payload := make([]byte, 32)
		for !stop.Load() {
			unix.Write(fd, payload) // an error is a full buffer
		}
	})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frames := newFrames(64)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		n, err := q.Recv(frames[:min(len(frames), b.N-done)], time.Second)
		if err != nil {
			b.Fatal(err)
		}
		if err := q.Send(frames[:n]); err != nil {
			b.Fatal(err)
		}
		done += n
	}
	b.StopTimer()
	stop.Store(true)
	running.Wait()
}
