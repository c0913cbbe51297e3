package carry

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

// cpu is what the process has used, of user and system time.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// udpPair is the bare line that the carriers are compared with: one system call for
// a datagram.
func udpPair(b *testing.B) (from, to Conn) {
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		c.SetReadBuffer(4 << 20)
		return c
	}
	x, y := listen(), listen()
	return &udpConn{UDPConn: x, to: y.LocalAddr()}, &udpConn{UDPConn: y, to: x.LocalAddr()}
}

type udpConn struct {
	Conn
	*net.UDPConn
	to net.Addr
}

func (u *udpConn) Close() error { return u.UDPConn.Close() }
func (u *udpConn) Send(bufs [][]byte) error {
	for _, b := range bufs {
		if _, err := u.WriteTo(b, u.to); err != nil {
			return err
		}
	}
	return nil
}

func (u *udpConn) Receive(bufs [][]byte, sizes []int) (int, error) {
	n, _, err := u.ReadFrom(bufs[0])
	sizes[0] = n
	return 1, err
}

func benchPair(b *testing.B, kind string) (from, to Conn) {
	switch kind {
	case "udp":
		return udpPair(b)
	case "quic", "wss":
		return pair(b, Kind(kind), false)
	default:
		return pair(b, Kind(kind[:len(kind)-len("+pad")]), true)
	}
}

// BenchmarkCarry sends as fast as Send takes, and counts what arrives: the figures
// are of delivered datagrams, MB/s among them.
func BenchmarkCarry(b *testing.B) {
	for _, kind := range []string{"udp", "quic", "wss", "quic+pad", "wss+pad"} {
		for _, tc := range []struct{ size, batch int }{{1312, 1}, {1312, 64}, {96, 64}} {
			if kind != "udp" && kind != "quic" && kind != "wss" && tc.size != 96 {
				continue
			}
			b.Run(fmt.Sprintf("%s/size=%d/batch=%d", kind, tc.size, tc.batch), func(b *testing.B) { throughput(b, kind, tc.size, tc.batch) })
		}
	}
}

func throughput(b *testing.B, kind string, size, batch int) {
	from, to := benchPair(b, kind)
	out := make([][]byte, batch)
	for i := range out {
		out[i] = make([]byte, size)
		rand.Read(out[i])
	}
	in, sizes := make([][]byte, 128), make([]int, 128)
	for i := range in {
		in[i] = make([]byte, 2048)
	}
	stop, sent := make(chan struct{}), make(chan uint64)
	b.SetBytes(int64(size))
	go func() {
		var n uint64
		for {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			if from.Send(out) == nil {
				n += uint64(batch)
			}
		}
	}()
	receive := func() int {
		n, err := to.Receive(in, sizes)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	for got := 0; got < 20000; { // the congestion window opens
		got += receive()
	}
	used := cpu()
	b.ResetTimer()
	got := 0
	for got < b.N {
		got += receive()
	}
	b.StopTimer()
	used = cpu() - used
	close(stop)
	b.ReportMetric(float64(got*size*8)/1e6/b.Elapsed().Seconds(), "Mbit/s")
	b.ReportMetric(used.Seconds()/(float64(got*size)/1e9), "cpu-s/GB")
	n := <-sent
	if kind != "udp" {
		s := from.Stats()
		b.ReportMetric(100*float64(s.Full+s.Stale)/float64(n), "%dropped-by-sender")
		b.ReportMetric(100*float64(to.Stats().Unread)/float64(n), "%dropped-by-reader")
	}
}

// BenchmarkCarryRTT sends one datagram there and back.
func BenchmarkCarryRTT(b *testing.B) {
	for _, kind := range []string{"udp", "quic", "wss"} {
		b.Run(kind, func(b *testing.B) {
			client, server := benchPair(b, kind)
			buf := func() ([][]byte, []int) { return [][]byte{make([]byte, 2048)}, make([]int, 1) }
			done := make(chan struct{})
			go func() {
				defer close(done)
				for in, sizes := buf(); ; {
					if _, err := server.Receive(in, sizes); err != nil {
						return
					}
					server.Send([][]byte{in[0][:sizes[0]]})
				}
			}()
			in, sizes := buf()
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				client.Send([][]byte{in[0][:148]})
				if _, err := client.Receive(in, sizes); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			server.Close()
			client.Close()
			<-done
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}
