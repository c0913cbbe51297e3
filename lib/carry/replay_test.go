package carry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// A tape keeps what a client sends to a server, in order.
type tape struct {
	mu   sync.Mutex
	sent [][]byte
	addr string // the client dials this
}

func (r *tape) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, bytes.Clone(b))
}

func (r *tape) all() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte{}, r.sent...)
}

// tapeTCP stands before a server of TCP, for one connection.
func tapeTCP(t *testing.T, to string) *tape {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, done := &tape{addr: l.Addr().String()}, make(chan struct{})
	go func() {
		defer close(done)
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		back := make(chan struct{})
		go func() { defer close(back); io.Copy(in, out); in.Close() }()
		b := make([]byte, 1<<16)
		for {
			n, err := in.Read(b)
			if err != nil {
				break
			}
			r.keep(b[:n])
			out.Write(b[:n])
		}
		out.Close()
		<-back
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return r
}

// tapeUDP stands before a server of UDP, for one client.
func tapeUDP(t *testing.T, to string) *tape {
	t.Helper()
	in, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	r := &tape{addr: in.LocalAddr().String()}
	var from net.Addr
	var mu sync.Mutex
	var done sync.WaitGroup
	done.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, a, err := in.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			from = a
			mu.Unlock()
			r.keep(b[:n])
			out.Write(b[:n])
		}
	})
	done.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, err := out.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			a := from
			mu.Unlock()
			if a != nil {
				in.WriteTo(b[:n], a)
			}
		}
	})
	t.Cleanup(func() { in.Close(); out.Close(); done.Wait() })
	return r
}

// Who recorded a carrier's client and says the same again is answered as a web server
// answers it: while the client is there, and when the server never met it.
func TestHC2_AReplayIsAnsweredAsByAnyServer(t *testing.T) {
	cert, err := SelfMade("a.example")
	if err != nil {
		t.Fatal(err)
	}
	cover := http.HandlerFunc(mirror)
	start := func() *Server {
		return serve(t, ServerConfig{Key: [32]byte{1, 2, 3}, Cover: cover, Certificate: cert, MaxPerSource: 1 << 14})
	}
	s, fresh := start(), start()
	theirs, freshTheirs := plain(t, cover, cert), plain(t, cover, cert)

	t.Run("QUIC", func(t *testing.T) {
		ours, web := tapeUDP(t, s.Addr().String()), tapeUDP(t, theirs)
		carried(t, s, QUIC, ours.addr)
		h3 := &http3.Transport{TLSClientConfig: anyCert(), EnableDatagrams: true, QUICConfig: &quic.Config{EnableDatagrams: true, InitialPacketSize: firstPacket}}
		defer h3.Close()
		q, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+web.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := h3.RoundTrip(q)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		a, b := ours.all(), web.all()
		for i := range min(3, len(a), len(b)) {
			if x, y := datagramAnswer(t, s.Addr().String(), string(a[i])), datagramAnswer(t, theirs, string(b[i])); x != y {
				t.Errorf("datagram %d again: a carrier answers %q, a web server %q", i, x, y)
			}
		}
		x, y := firstAnswer(t, fresh.Addr().String(), a[0]), firstAnswer(t, freshTheirs, a[0])
		if x != y {
			t.Errorf("the first datagram, to a server that never met the client: a carrier answers %s, a web server %s", x, y)
		}
	})

	t.Run("WSS", func(t *testing.T) {
		ours := tapeTCP(t, s.Addr().String())
		carried(t, s, WSS, ours.addr)
		said := bytes.Join(ours.all(), nil)
		for name, at := range map[string]string{"the same server": s.Addr().String(), "another": fresh.Addr().String()} {
			if x, y := records(t, at, said), records(t, theirs, said); x != y {
				t.Errorf("all of it again to %s: a carrier answers %s, a web server %s", name, x, y)
			}
		}
	})
}

// carried has a client carry a datagram through what stands before a server.
func carried(t *testing.T, s *Server, kind Kind, addr string) {
	t.Helper()
	cfg := s.dial(kind)
	cfg.Addr = addr
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	far, err := s.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if err := c.Send([][]byte{[]byte("a datagram")}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Receive([][]byte{make([]byte, 99)}, make([]int, 1)); err != nil {
		t.Fatal(err)
	}
}

// firstAnswer describes the first datagram that comes back for one (RFC 9000, 17.2).
func firstAnswer(t *testing.T, addr string, b []byte) string {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(b)
	got := make([]byte, 1<<16)
	n, err := c.Read(got)
	if err != nil || n < 7 || n < 7+int(got[5]) {
		t.Fatalf("%s answers nothing: %v", addr, err)
	}
	return fmt.Sprintf("type %x, version %x, a source of %d bytes, %d bytes", got[0]&0xf0, got[1:5], got[6+int(got[5])], n)
}

// records describes what a server of TLS says to bytes: kinds of records and their
// sizes, but for those of signatures, which differ by a few bytes.
func records(t *testing.T, addr string, say []byte) (all string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(say)
	c.(*net.TCPConn).CloseWrite()
	for {
		head := make([]byte, 5) // RFC 8446, 5.1
		if _, err := io.ReadFull(c, head); err != nil {
			return all // how it ended, a reset or not, is the system's
		}
		n := binary.BigEndian.Uint16(head[3:])
		if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
			return all
		}
		all += fmt.Sprintf("%d of %d; ", head[0], (n+4)/8*8)
	}
}
