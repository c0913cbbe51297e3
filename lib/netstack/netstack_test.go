package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"top/lib/top"
)

const far, far6 = "192.0.2.1:80", "[2001:db8::1]:80"

// soon bounds what a test waits for.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, s *Stack, network, addr string) net.Conn {
	t.Helper()
	c, err := s.DialContext(soon(t), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// serve runs f for each connection to a socket of the host.
func serve(t testing.TB, f func(*net.TCPConn)) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr()
}

// echoUDP answers every datagram with what reply makes of it.
func echoUDP(t testing.TB, reply func([]byte) []byte) net.Addr {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(reply(b[:n]), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr()
}

func same(b []byte) []byte { return b }

// A wire is an exit, whose packets a test writes and reads itself.
type wire struct {
	*Stack
	t    testing.TB
	from chan []byte
}

func newWire(t testing.TB, cfg Config) *wire {
	t.Helper()
	if cfg.Addrs == nil {
		cfg.Addrs = []netip.Addr{exitAddr, exit6}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{s, t, make(chan []byte, 10000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.from)
		bufs, sizes := [][]byte{make([]byte, 65536)}, make([]int, 1)
		for {
			if _, err := s.Read(bufs, sizes, 0); err != nil {
				return
			}
			w.from <- bytes.Clone(bufs[0][:sizes[0]])
		}
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return w
}

func (w *wire) say(b ...[]byte) {
	w.t.Helper()
	if n, err := w.Write(b, 0); err != nil || n != len(b) {
		w.t.Fatal(n, err)
	}
}

// hear waits for a packet, which must be sound.
func (w *wire) hear() packet {
	w.t.Helper()
	select {
	case b, ok := <-w.from:
		p, sound := parse(b)
		if !ok || !sound {
			w.t.Fatalf("malformed packet %x", b)
		}
		return p
	case <-time.After(20 * time.Second):
		w.t.Fatal("no packet")
	}
	return packet{}
}

// mk makes an IP packet around a transport with its checksum.
func mk(proto uint8, src, dst string, transport []byte) []byte {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	var p []byte
	if a.Is4() {
		p = make([]byte, 20)
		p[0], p[8], p[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(transport)))
		copy(p[12:], a.AsSlice())
		copy(p[16:], b.AsSlice())
		binary.BigEndian.PutUint16(p[10:], ^checksum.Checksum(p, 0))
	} else {
		p = make([]byte, 40)
		p[0], p[6], p[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(p[4:], uint16(len(transport)))
		copy(p[8:], a.AsSlice())
		copy(p[24:], b.AsSlice())
	}
	p = append(p, transport...)
	k := packet{b: p, v6: a.Is6(), proto: proto, at: len(p) - len(transport)}
	at := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[proto]
	if at > 0 && len(transport) > at+1 {
		sum := uint16(0)
		if proto != protoICMP {
			sum = k.pseudo(len(transport))
		}
		binary.BigEndian.PutUint16(p[k.at+at:], ^checksum.Checksum(p[k.at:], sum))
	}
	return p
}

func tcpSegment(srcPort, dstPort uint16, seq, ack uint32, flags uint8, data []byte) []byte {
	t := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint16(t, srcPort)
	binary.BigEndian.PutUint16(t[2:], dstPort)
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 5<<4, flags
	binary.BigEndian.PutUint16(t[14:], 65535)
	return append(t, data...)
}

func udpDatagram(srcPort, dstPort uint16, data []byte) []byte {
	u := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(u, srcPort)
	binary.BigEndian.PutUint16(u[2:], dstPort)
	binary.BigEndian.PutUint16(u[4:], uint16(8+len(data)))
	return append(u, data...)
}

func ask(kind byte, data string) []byte {
	return append([]byte{kind, 0, 0, 0, 0, 7, 0, 1}, data...)
}

const client, host = "10.7.0.2", "192.0.2.1"

func TestN1_NothingLargerThanTheMTULeaves(t *testing.T) {
	page := make([]byte, 8<<20)
	for i := range page {
		page[i] = byte(i * 7 >> 3)
	}
	addr := serve(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		if !bytes.Equal(got, page) {
			t.Errorf("%d bytes reached the host, want %d of the same", len(got), len(page))
		}
		c.Write(page)
	})
	large := bytes.Repeat([]byte("0123456789"), 500)
	udp := echoUDP(t, func([]byte) []byte { return large })
	var most, packets atomic.Int64
	see := func(b []byte) bool {
		packets.Add(1)
		most.Store(max(most.Load(), int64(len(b))))
		if _, ok := parse(b); !ok {
			t.Errorf("malformed packet of %d bytes", len(b))
		}
		return true
	}
	client, exit := join(t, &Forward{TCP: toHost("tcp", addr), UDP: toHost("udp", udp)}, see)
	for _, to := range []string{far, far6} {
		c := dial(t, client, "tcp", to).(*Conn)
		go func() {
			c.Write(page)
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, page) {
			t.Fatalf("%s: %d bytes back, want %d of the same: %v\n%s\n%s", to, len(got), len(page), err, dump(client), dump(exit))
		}
		u := dial(t, client, "udp", to)
		// The first that is larger than the flow's buffer is lost.
		b := make([]byte, 65536)
		n := 0
		for i := 0; n == 0 && i < 50; i++ {
			u.Write([]byte("?"))
			u.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, _ = u.Read(b)
		}
		if !bytes.Equal(b[:n], large) {
			t.Fatalf("%s: datagram of %d bytes, want %d", to, n, len(large))
		}
	}
	if most.Load() != 1420 {
		t.Errorf("the largest of %d packets has %d bytes, want 1420", packets.Load(), most.Load())
	}
}

func TestN1_NothingLeavesUnasked(t *testing.T) {
	w := newWire(t, Config{Forward: &Forward{}})
	w.say(mk(protoICMP, client, exitAddr.String(), ask(8, "first")))
	if p := w.hear(); p.proto != protoICMP || p.b[20] != echoReply || !bytes.HasSuffix(p.b, []byte("first")) {
		t.Errorf("the first packet is %x, want the answer", p.b)
	}
}

func TestN1_APathThatIsNarrowerIsHonoured(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	var mu sync.Mutex
	var sizes []int
	var large []byte
	see := func(b []byte) bool {
		if p, _ := parse(b); p.src().String() == host {
			mu.Lock()
			defer mu.Unlock()
			if sizes = append(sizes, len(b)); len(b) > 1300 && large == nil {
				large = bytes.Clone(b)
			}
		}
		return true
	}
	cl, exit := join(t, &Forward{TCP: toHost("tcp", addr)}, see)
	c := dial(t, cl, "tcp", far)
	block := make([]byte, 100_000)
	turn := func() {
		go c.Write(block)
		if _, err := io.ReadFull(c, make([]byte, len(block))); err != nil {
			t.Fatal(err)
		}
	}
	turn()
	mu.Lock()
	narrow := append([]byte{3, 4, 0, 0, 0, 0, 1300 >> 8, 1300 & 255}, large[:28]...)
	mu.Unlock()
	if _, err := exit.Write([][]byte{mk(protoICMP, client, host, narrow)}, 0); err != nil {
		t.Fatal(err)
	}
	turn()
	mu.Lock()
	sizes = nil
	mu.Unlock()
	turn()
	mu.Lock()
	defer mu.Unlock()
	for _, n := range sizes {
		if n > 1300 {
			t.Fatalf("packets of %d bytes on a path of 1300", n)
		}
	}
}

func TestN2_WhoIsRefusedReachesNobody(t *testing.T) {
	denied := func(ctx context.Context, f Flow) (net.Conn, error) { return nil, top.Errorf(top.Denied, "%v", f) }
	for name, f := range map[string]*Forward{"denied": {TCP: denied, UDP: denied}, "none": {}} {
		client, exit := join(t, f, nil)
		for _, to := range []string{far, far6} {
			_, err := client.DialContext(soon(t), "tcp", to)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: tcp to %s: %v, want refused", name, to, err)
			}
			isRefused(t, dial(t, client, "udp", to))
		}
		if st := exit.Stats(); st.Refused < 4 {
			t.Errorf("%s: %d refused, want 4 or more", name, st.Refused)
		}
	}
	// An address of the exit's own, where nobody listens, is not forwarded.
	var asked atomic.Int64
	count := func(context.Context, Flow) (net.Conn, error) { asked.Add(1); return nil, top.ErrDenied }
	client, _ := join(t, &Forward{TCP: count, UDP: count}, nil)
	if _, err := client.DialContext(soon(t), "tcp", netip.AddrPortFrom(exitAddr, 80).String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("own address: %v, want refused", err)
	}
	isRefused(t, dial(t, client, "udp", netip.AddrPortFrom(exitAddr, 80).String()))
	if asked.Load() != 0 {
		t.Errorf("own address: forwarded %d times", asked.Load())
	}
}

// isRefused waits for a socket to hear that its port is unreachable.
func isRefused(t *testing.T, u net.Conn) {
	t.Helper()
	defer u.Close()
	eventually(t, u.RemoteAddr().String(), func() bool {
		_, err := u.Write([]byte("?"))
		return err != nil && strings.Contains(err.Error(), "refused")
	})
}

func TestN2_EchoesAreAskedOrRefused(t *testing.T) {
	good := netip.MustParseAddr(host)
	w := newWire(t, Config{Forward: &Forward{Echo: func(_ context.Context, f Flow, payload []byte) error {
		if f.Dst.Addr().Is4() && f.Dst.Addr() != good {
			return top.ErrDenied
		}
		if f.Dst.Addr().Is6() && string(payload) != "six" {
			return top.ErrOffline
		}
		return nil
	}}})
	for _, tc := range []struct {
		proto      uint8
		src, dst   string
		kind       byte
		data       string
		back, code byte
	}{
		{protoICMP, client, host, 8, "hello", echoReply, 0},
		{protoICMP, client, "192.0.2.9", 8, "hello", unreachable4, prohibited.v4},
		{protoICMPv6, "fd07::2", "2001:db8::1", 128, "six", echoReply6, 0},
		{protoICMPv6, "fd07::2", "2001:db8::1", 128, "seven", unreachable6, hostUnreachable.v6},
	} {
		sent := mk(tc.proto, tc.src, tc.dst, ask(tc.kind, tc.data))
		w.say(sent)
		p := w.hear()
		m := p.b[p.at:]
		sum := uint16(0)
		if p.v6 {
			sum = p.pseudo(len(m))
		}
		if p.proto != tc.proto || m[0] != tc.back || m[1] != tc.code || checksum.Checksum(m, sum) != 0xffff || p.dst().String() != tc.src {
			t.Errorf("%+v: answer %x", tc, p.b)
		}
		if tc.code == 0 && (!bytes.Equal(m[4:], sent[p.at+4:]) || p.src().String() != tc.dst) {
			t.Errorf("%+v: answer %x to %x", tc, p.b, sent)
		}
	}
}

func TestN3_AConnectionStandsWhenTheHostsDoes(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	asked, let := make(chan struct{}), make(chan struct{})
	w := newWire(t, Config{Forward: &Forward{TCP: func(ctx context.Context, f Flow) (net.Conn, error) {
		close(asked)
		<-let
		return toHost("tcp", addr)(ctx, f)
	}}})
	w.say(mk(protoTCP, client, host, tcpSegment(1000, 80, 1, 0, uint8(header.TCPFlagSyn), nil)))
	<-asked
	// What is said later is answered before the SYN.
	w.say(mk(protoICMP, client, exitAddr.String(), ask(8, "mark")))
	if p := w.hear(); p.proto != protoICMP {
		t.Fatalf("the SYN was answered before the host: %x", p.b)
	}
	close(let)
	if p := w.hear(); p.proto != protoTCP || header.TCP(p.b[20:]).Flags() != header.TCPFlagSyn|header.TCPFlagAck {
		t.Fatalf("%x, want a SYN and ACK", p.b)
	}
}

func TestN3_TheClientSeesWhatTheHostSays(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := ln.Addr()
	ln.Close()
	c1, _ := join(t, &Forward{TCP: toHost("tcp", gone)}, nil)
	if _, err := c1.DialContext(soon(t), "tcp", far); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port where nobody listens: %v", err)
	}
	silent := func(context.Context, Flow) (net.Conn, error) { return nil, top.ErrTimeout }
	c2, _ := join(t, &Forward{TCP: silent}, nil)
	short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := c2.DialContext(short, "tcp", far); !errors.Is(err, top.ErrTimeout) {
		t.Errorf("a host that is silent: %v", err)
	}
}

func TestN3_EachWayEndsByItself(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		c.Write(append([]byte("got "), got...))
	})
	hostFirst := serve(t, func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "late" || err != nil {
			t.Errorf("after the host's end: %q, %v", got, err)
		}
	})
	for name, tc := range map[string]struct {
		addr net.Addr
		f    func(*Conn)
	}{
		"the client ends first": {addr, func(c *Conn) {
			c.Write([]byte("all"))
			c.CloseWrite()
			if got, err := io.ReadAll(c); string(got) != "got all" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		}},
		"the host ends first": {hostFirst, func(c *Conn) {
			if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			c.Write([]byte("late"))
			c.CloseWrite()
		}},
	} {
		client, exit := join(t, &Forward{TCP: toHost("tcp", tc.addr)}, nil)
		c := dial(t, client, "tcp", far).(*Conn)
		tc.f(c)
		c.Close()
		eventually(t, name, func() bool { return exit.Stats().Flows == 0 })
	}
}

func TestN3_AResetIsAReset(t *testing.T) {
	got, ended := make(chan struct{}, 2), make(chan error, 1)
	addr := serve(t, func(c *net.TCPConn) {
		b := make([]byte, 1)
		if _, err := c.Read(b); err != nil {
			t.Error(err)
		}
		got <- struct{}{}
		if b[0] == 'r' { // reset by the host
			c.SetLinger(0)
			c.Close()
			return
		}
		_, err := c.Read(b)
		ended <- err
	})
	client, _ := join(t, &Forward{TCP: toHost("tcp", addr)}, nil)
	c := dial(t, client, "tcp", far).(*Conn)
	c.Write([]byte("r"))
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("reset by the host: %v", err)
	}
	c = dial(t, client, "tcp", far).(*Conn)
	c.Write([]byte("x"))
	<-got
	<-got
	c.Reset()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset by the client: %v", err)
	}
}

// A line that loses one packet of two hundred, each way, delays a stream and no more.
func TestN6_AStreamSurvivesLoss(t *testing.T) {
	page := make([]byte, 1<<20)
	for i := range page {
		page[i] = byte(i * 7 >> 3)
	}
	addr := serve(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		c.Write(got)
	})
	var n, lost atomic.Int64
	client, exit := join(t, &Forward{TCP: toHost("tcp", addr)}, func([]byte) bool {
		if n.Add(1)%200 == 0 {
			lost.Add(1)
			return false
		}
		return true
	})
	c := dial(t, client, "tcp", far).(*Conn)
	go func() {
		c.Write(page)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, page) || lost.Load() == 0 {
		t.Fatalf("%d bytes back, want %d of the same, %d packets lost: %v\n%s\n%s", len(got), len(page), lost.Load(), err, dump(client), dump(exit))
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestN4_ASourceHasSoManyFlows(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	client, exit := join(t, &Forward{TCP: toHost("tcp", addr), MaxPerSource: 3}, nil)
	for range 3 {
		defer dial(t, client, "tcp", far).Close()
	}
	if _, err := client.DialContext(soon(t), "tcp", far); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the fourth: %v, want refused", err)
	}
	// Another source has room.
	defer dial(t, client, "tcp", far6).Close()
	if st := exit.Stats(); st.Flows != 4 || st.Refused != 1 {
		t.Errorf("%+v, want 4 flows and 1 refused", st)
	}
}

func TestN4_AFloodOfSYNsIsBounded(t *testing.T) {
	var now, most atomic.Int64
	let := make(chan struct{})
	w := newWire(t, Config{Forward: &Forward{MaxPerSource: 8, MaxFlows: 12, TCP: func(ctx context.Context, f Flow) (net.Conn, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case <-let:
		case <-ctx.Done():
		}
		return nil, top.ErrDenied
	}}})
	for _, src := range []string{client, "10.7.0.3"} {
		for port := range uint16(1000) {
			w.say(mk(protoTCP, src, host, tcpSegment(1000+port, 80, 1, 0, uint8(header.TCPFlagSyn), nil)))
		}
	}
	eventually(t, "both", func() bool { return now.Load() == 12 })
	if n := w.Stats().Flows; n != 12 || most.Load() != 12 {
		t.Errorf("%d flows, at most %d at once, want 12", n, most.Load())
	}
	close(let)
	eventually(t, "empty", func() bool { return w.Stats().Flows == 0 })
}

func TestN4_ManyDatagramsLoseTheOldestFlowOfTheSource(t *testing.T) {
	addr := echoUDP(t, same)
	var mu sync.Mutex
	open := map[uint16]int{}
	w := newWire(t, Config{Forward: &Forward{MaxPerSource: 3, UDP: func(ctx context.Context, f Flow) (net.Conn, error) {
		mu.Lock()
		open[f.Src.Port()]++
		mu.Unlock()
		return toHost("udp", addr)(ctx, f)
	}}})
	turn := func(src string, port uint16) {
		w.say(mk(protoUDP, src, host, udpDatagram(port, 53, []byte("?"))))
		if p := w.hear(); p.proto != protoUDP || binary.BigEndian.Uint16(p.b[22:]) != port {
			t.Fatalf("%x, want the answer to port %d", p.b, port)
		}
	}
	turn("10.7.0.3", 9)
	for _, port := range []uint16{1, 2, 3, 1, 4, 1, 3, 2} {
		turn(client, port)
	}
	turn("10.7.0.3", 9)
	// 2 was the oldest when 4 came, and 4 when 2 came again.
	for port, want := range map[uint16]int{1: 1, 2: 2, 3: 1, 4: 1, 9: 1} {
		if open[port] != want {
			t.Errorf("port %d was connected %d times, want %d", port, open[port], want)
		}
	}
	if n := w.Stats().Flows; n != 4 {
		t.Errorf("%d flows, want 4", n)
	}
}

func TestN4_AnIdleFlowEnds(t *testing.T) {
	tcp := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	udp := echoUDP(t, same)
	client, exit := join(t, &Forward{TCP: toHost("tcp", tcp), UDP: toHost("udp", udp), IdleTCP: 50 * time.Millisecond, IdleUDP: 50 * time.Millisecond}, nil)
	c, u := dial(t, client, "tcp", far), dial(t, client, "udp", far)
	defer c.Close()
	defer u.Close()
	u.Write([]byte("?"))
	if _, err := u.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "idle", func() bool { return exit.Stats().Flows == 0 })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that idled was not ended")
	}
}

func TestN5_WhatIsMalformedIsDropped(t *testing.T) {
	var asked atomic.Int64
	count := func(context.Context, Flow) (net.Conn, error) { asked.Add(1); return nil, top.ErrDenied }
	syn := tcpSegment(1, 80, 1, 0, uint8(header.TCPFlagSyn), nil)
	spoil := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	good4, good6 := mk(protoTCP, client, host, syn), mk(protoTCP, "fd07::2", "2001:db8::1", syn)
	gram := mk(protoUDP, client, host, udpDatagram(1, 53, []byte("?")))
	long := udpDatagram(1, 53, []byte("?"))
	long[5] = 200
	none6 := mk(protoUDP, "fd07::2", "2001:db8::1", udpDatagram(1, 53, []byte("?")))
	none6[46], none6[47] = 0, 0
	bad := map[string][]byte{
		"empty": {}, "short": good4[:19], "cut": good4[:30], "version": spoil(good4, 0, 0x55), "header length": spoil(good4, 0, 0x44),
		"header checksum": spoil(good4, 8, 63), "tcp checksum": spoil(good4, 25, 9), "data offset": mk(protoTCP, client, host, spoil(syn, 12, 0x40)),
		"offset beyond": mk(protoTCP, client, host, spoil(syn, 12, 0xf0)), "short 6": good6[:39], "cut 6": good6[:50], "tcp checksum 6": spoil(good6, 45, 9),
		"udp checksum": spoil(gram, 28, '!'), "udp length": mk(protoUDP, client, host, long), "no checksum 6": none6,
		"short udp": mk(protoUDP, client, host, []byte{0, 1, 0, 53}), "extension": mk(protoHop, "fd07::2", "2001:db8::1", []byte{6, 255, 0, 0, 0, 0, 0, 0}),
		"land": mk(protoTCP, host, host, tcpSegment(80, 80, 1, 0, uint8(header.TCPFlagSyn), nil)), "from the exit": mk(protoTCP, exitAddr.String(), host, syn),
		"from nobody": mk(protoTCP, "0.0.0.0", host, syn), "from a group": mk(protoTCP, "224.0.0.1", host, syn), "from itself": mk(protoTCP, "127.0.0.1", host, syn),
		"to a group": mk(protoUDP, client, "224.0.0.251", udpDatagram(1, 5353, nil)), "to all": mk(protoUDP, client, "255.255.255.255", udpDatagram(68, 67, nil)),
		"to itself": mk(protoTCP, client, "127.0.0.1", syn), "to a group 6": mk(protoUDP, "fd07::2", "ff02::1", udpDatagram(1, 1, nil)),
		"to itself 6": mk(protoTCP, "fd07::2", "::1", syn), "mapped": mk(protoTCP, "fd07::2", "::ffff:127.0.0.1", syn),
	}
	w := newWire(t, Config{Forward: &Forward{TCP: count, UDP: count}})
	for name, b := range bad {
		before := w.Stats().Malformed
		w.say(b)
		if got := w.Stats().Malformed; got != before+1 {
			t.Errorf("%s: was not dropped: %x", name, b)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d of them were forwarded", asked.Load())
	}
	// The look works: those that are good are forwarded.
	w.say(good4, good6, gram)
	eventually(t, "the good ones", func() bool { return asked.Load() == 3 })
}

func TestN5_FragmentsAreJoinedOrForgotten(t *testing.T) {
	got := make(chan string, 1)
	addr := echoUDP(t, func(b []byte) []byte { got <- string(b); return b })
	w := newWire(t, Config{Forward: &Forward{UDP: toHost("udp", addr)}})
	whole := mk(protoUDP, client, host, udpDatagram(1, 53, bytes.Repeat([]byte("x"), 100)))
	part := func(from, to int, more bool) []byte {
		b := append(bytes.Clone(whole[:20]), whole[20+from:20+to]...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		flags := uint16(from / 8)
		if more {
			flags |= 0x2000
		}
		binary.BigEndian.PutUint16(b[4:], 77)
		binary.BigEndian.PutUint16(b[6:], flags)
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
		return b
	}
	w.say(part(56, 108, false), part(0, 56, true))
	if s := <-got; s != strings.Repeat("x", 100) {
		t.Errorf("%q", s)
	}
	if p := w.hear(); p.proto != protoUDP {
		t.Errorf("%x", p.b)
	}
	// First fragments that nothing follows hold no flow.
	for i := range 2000 {
		b := part(0, 56, true)
		binary.BigEndian.PutUint16(b[4:], uint16(100+i))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
		w.say(b)
	}
	if n := w.Stats().Flows; n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
}

func TestN7_WhoSendsFasterThanTheTunnelWaits(t *testing.T) {
	addr := serve(t, func(c *net.TCPConn) { io.Copy(c, c) })
	// The carrier stops when the gate is locked.
	var gate sync.Mutex
	cl, _ := join(t, &Forward{TCP: toHost("tcp", addr)}, func([]byte) bool {
		gate.Lock()
		defer gate.Unlock()
		return true
	})
	c := dial(t, cl, "tcp", far)
	block := make([]byte, 64<<10)
	gate.Lock()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for range 128 {
			if _, err := c.Write(block); err != nil {
				t.Error(err)
			}
		}
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		if n, err := io.CopyN(io.Discard, c, 128*int64(len(block))); err != nil {
			t.Error(n, err)
		}
	}()
	for range 100 {
		<-time.After(time.Millisecond)
		cl.link.mu.Lock()
		if cl.link.bytes > queueBytes+2*superSize {
			t.Errorf("%d bytes wait", cl.link.bytes)
		}
		cl.link.mu.Unlock()
	}
	gate.Unlock()
	<-wrote
	<-back
	if lost := cl.Stats().Lost; lost != 0 {
		t.Errorf("%d packets were lost", lost)
	}
}

func TestN7_WriteNeverWaits(t *testing.T) {
	s, err := New(Config{Addrs: []netip.Addr{exitAddr}, Forward: &Forward{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// Nobody reads the answers.
	b := mk(protoICMP, client, exitAddr.String(), ask(8, strings.Repeat("x", 1000)))
	for range 3 * queuePackets {
		if _, err := s.Write([][]byte{b}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.link.out.len(); n != queuePackets {
		t.Errorf("%d packets wait, want %d", n, queuePackets)
	}
}

// stacks is the goroutines that run code of this room, or of gVisor; not what serves
// a test.
func stacks() string {
	b := make([]byte, 1<<20)
	var ours []string
	for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "netstack.echoUDP") && (strings.Contains(g, "top/lib/netstack") || strings.Contains(g, "gvisor.dev")) {
			ours = append(ours, g)
		}
	}
	return strings.Join(ours, "\n\n")
}

func TestN8_AfterCloseNothingIsLeft(t *testing.T) {
	eventually(t, "other tests", func() bool { return stacks() == "" })
	func() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		never := make(chan struct{})
		defer close(never)
		udp := echoUDP(t, same)
		f := &Forward{TCP: func(ctx context.Context, f Flow) (net.Conn, error) {
			if f.Dst.Port() == 81 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return toHost("tcp", ln.Addr())(ctx, f)
		}, UDP: toHost("udp", udp), Echo: func(ctx context.Context, _ Flow, _ []byte) error { <-ctx.Done(); return ctx.Err() }}
		w := newWire(t, Config{Forward: f})
		// A handshake that is not ended, a host that does not answer, an echo, a datagram.
		w.say(mk(protoTCP, client, host, tcpSegment(1, 80, 1, 0, uint8(header.TCPFlagSyn), nil)),
			mk(protoTCP, client, host, tcpSegment(2, 81, 1, 0, uint8(header.TCPFlagSyn), nil)),
			mk(protoICMP, client, host, ask(8, "x")), mk(protoUDP, client, host, udpDatagram(1, 53, []byte("?"))))
		l, err := w.Listen(netip.AddrPortFrom(exitAddr, 0))
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		go func() { _, err := l.Accept(); accepted <- err }()
		eventually(t, "flows", func() bool { return w.Stats().Flows == 4 })
		w.hear()
		w.hear()
		cl, exit := join(t, f, nil)
		c := dial(t, cl, "tcp", far)
		read := make(chan error)
		go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
		cl.Close()
		if err := <-read; err == nil {
			t.Error("a connection outlived the stack")
		}
		exit.Close()
		w.Close()
		if err := <-accepted; err == nil {
			t.Error("a listener outlived the stack")
		}
		if _, err := w.Write(nil, 0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if _, err := w.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := cl.DialContext(soon(t), "tcp", far); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
	}()
	end := time.Now().Add(10 * time.Second)
	for left := stacks(); left != ""; left = stacks() {
		if time.Now().After(end) {
			t.Fatalf("left:\n%s", left)
		}
		<-time.After(time.Millisecond)
	}
}
