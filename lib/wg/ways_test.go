package wg

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// memory is one end of a carrier that is two channels.
type memory struct {
	in, out chan []byte
	addr    netip.AddrPort
	closed  chan struct{}
	once    *sync.Once
}

func carriers(n byte) (a, b *memory) {
	x, y, closed, once := make(chan []byte, 256), make(chan []byte, 256), make(chan struct{}), &sync.Once{}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 443)
	return &memory{x, y, addr, closed, once}, &memory{y, x, addr, closed, once}
}

func (m *memory) Send(bufs [][]byte) error {
	for _, b := range bufs {
		select {
		case m.out <- append([]byte{}, b...):
		case <-m.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (m *memory) Receive(bufs [][]byte, sizes []int) (int, error) {
	select {
	case b := <-m.in:
		if len(b) > len(bufs[0]) {
			return 0, nil
		}
		sizes[0] = copy(bufs[0], b)
		return 1, nil
	case <-m.closed:
		return 0, net.ErrClosed
	}
}

func (m *memory) RemoteAddr() netip.AddrPort { return m.addr }
func (m *memory) Close() error               { m.once.Do(func() { close(m.closed) }); return nil }

func TestCarriersAndUDPSideBySide(t *testing.T) {
	nothingLeft(t)
	ways := NewWays()
	e, a := exit(t, nil, ways)
	var pumps sync.WaitGroup
	var clients []end
	var ends []*memory
	for i := range 3 {
		near, far := carriers(byte(i))
		pumps.Go(func() { ways.Carry(far) })
		c := end{key: NewPrivate(), line: newLane()}
		c.dev = open(t, Config{Key: c.key, Line: c.line, Way: NewCarried(near)})
		meet(t, c.dev, e.key.Public(), near.addr.String())
		clients, ends = append(clients, c), append(ends, near)
	}
	clients = append(clients, stranger(t, e)) // over UDP
	talk := func(round string) {
		t.Helper()
		for i, c := range clients {
			word := fmt.Sprint(round, i)
			c.line.in <- packet(c.inner(), e.inner(), word)
			wants(t, e.line, word)
			e.line.in <- packet(e.inner(), c.inner(), word)
			wants(t, c.line, word)
		}
	}
	talk("first ")
	if a.Strangers() != 4 {
		t.Errorf("%d strangers", a.Strangers())
	}
	all, err := e.dev.Contacts()
	if err != nil || len(all) != 4 {
		t.Fatal(all, err)
	}
	for _, k := range all {
		for i, c := range clients[:3] {
			if k.Key == c.key.Public() && k.Endpoint != ends[i].addr.String() {
				t.Errorf("client %d at %s", i, k.Endpoint)
			}
		}
	}
	// wireguard closes its way and opens it again when something changes.
	reopen(t, e.dev)
	for _, c := range clients {
		reopen(t, c.dev)
	}
	meet(t, clients[3].dev, e.key.Public(), at2(t, e.dev)) // its port is another now
	talk("second ")
	// Packets as large as they come.
	large := make([]byte, 8920-48)
	c := clients[0]
	c.line.in <- packet(c.inner(), e.inner(), string(large))
	wants(t, e.line, string(large))
	e.line.in <- packet(e.inner(), c.inner(), string(large))
	wants(t, c.line, string(large))
	// A client moves to another carrier.
	near, far := carriers(9)
	pumps.Go(func() { ways.Carry(far) })
	c.dev.Close()
	ends[0].Close()
	c.dev = open(t, Config{Key: c.key, Line: c.line, Way: NewCarried(near)})
	meet(t, c.dev, e.key.Public(), near.addr.String())
	clients[0], ends[0] = c, near
	talk("third ")
	for _, m := range ends {
		m.Close()
	}
	pumps.Wait()
}

// at2 is where a device listens now.
func at2(t *testing.T, d *Device) string {
	t.Helper()
	text, err := d.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range pairs(text) {
		if k == "listen_port" {
			return net.JoinHostPort("127.0.0.1", v)
		}
	}
	t.Fatal("listens nowhere")
	return ""
}

// What comes while nobody listens is lost, and nobody waits.
func TestAClosedWayLosesWhatComes(t *testing.T) {
	nothingLeft(t)
	near, far := carriers(1)
	ways := NewWays()
	done := make(chan struct{})
	go func() { defer close(done); ways.Carry(far) }()
	for range 5 * cap(near.out) { // more than waits on the way
		if err := near.Send([][]byte{{1}}); err != nil {
			t.Fatal(err)
		}
	}
	ways.Close()
	ways.Close()
	near.Close()
	take(t, done, "end of Carry")
}

// street is the line of a node that forwards datagrams to the world, and back.
type street struct {
	*lane
	mu    sync.Mutex
	conns map[netip.AddrPort]*net.UDPConn
	done  sync.WaitGroup
}

func newStreet() *street { return &street{lane: newLane(), conns: map[netip.AddrPort]*net.UDPConn{}} }

func (s *street) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		u, err := ParseUDP(b[offset:])
		if err != nil {
			continue
		}
		s.mu.Lock()
		c := s.conns[u.From]
		if c == nil {
			if c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.To)); err != nil {
				s.mu.Unlock()
				return 0, err
			}
			s.conns[u.From] = c
			s.done.Go(func() {
				for b := make([]byte, 1<<16); ; {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					select {
					case s.in <- UDP{u.To, u.From, b[:n]}.Packet():
					case <-s.closed:
					}
				}
			})
		}
		s.mu.Unlock()
		c.Write(u.Body)
	}
	return len(bufs), nil
}

func (s *street) end() {
	s.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
}

func TestAHopIsATunnelInATunnel(t *testing.T) {
	nothingLeft(t)
	const depth = 3
	type node struct {
		key Private
		dev *Device
	}
	everything := netip.MustParsePrefix("0.0.0.0/0")
	var nodes [depth]node
	last := newLane()
	for i := range nodes {
		s := newStreet()
		t.Cleanup(s.end)
		var line Line = s
		if i == depth-1 {
			line = last
		}
		nodes[i].key = NewPrivate()
		nodes[i].dev = open(t, Config{Key: nodes[i].key, Line: line})
	}
	var way *Hop
	var devs []*Device
	top := newLane()
	var keys []Private
	for i, n := range nodes {
		k := NewPrivate()
		keys = append(keys, k)
		cfg, next := Config{Key: k, Line: top}, netip.AddrPort{}
		if way != nil {
			cfg.Way = way.Way()
		}
		if i < depth-1 {
			next = netip.MustParseAddrPort(at(nodes[i+1].dev))
			way = NewHop(netip.AddrPort{}, next, 1420-60*i)
			t.Cleanup(func() { way.Close() })
			cfg.Line = way.Line()
		}
		d := open(t, cfg)
		devs = append(devs, d)
		four := netip.AddrFrom4([4]byte{100, 64, 1, byte(i + 1)})
		if i < depth-1 {
			way.Lead(netip.AddrPortFrom(four, 1), next)
		}
		meet(t, d, n.key.Public(), at(n.dev), everything)
		meet(t, n.dev, k.Public(), "", netip.PrefixFrom(four, 32))
	}
	me, you := keys[depth-1].Public().Inner(), nodes[depth-1].key.Public().Inner()
	talk := func(word string) {
		t.Helper()
		top.in <- packet(me, you, word)
		wants(t, last, word)
		last.in <- packet(you, me, word+" back")
		wants(t, top, word+" back")
	}
	for i := range 50 {
		talk(fmt.Sprint("through three ", i))
	}
	for _, d := range devs { // all of them at once
		reopen(t, d)
	}
	talk("opened anew")
	if devs[depth-1].Inject(packet(me, you, "tick")) != 1 {
		t.Error("no room")
	}
	wants(t, last, "tick")
	// The middle closes: those before and after it are left.
	devs[1].Close()
	all, err := devs[0].Contacts()
	if err != nil || len(all) != 1 {
		t.Error(all, err)
	}
}

func TestAHopSendsNothingWithoutAnAddress(t *testing.T) {
	next := netip.MustParseAddrPort("192.0.2.1:1")
	h := NewHop(netip.AddrPort{}, next, 1420)
	w, l := h.Way(), h.Line()
	if err := w.Send([][]byte{{1}}, nil); err != errNoAddress {
		t.Error(err)
	}
	h.Lead(netip.MustParseAddrPort("[fd00::1]:1"), next)
	if err := w.Send([][]byte{{1}}, nil); err != errNoAddress {
		t.Errorf("of another family: %v", err)
	}
	h.Lead(netip.MustParseAddrPort("100.64.0.2:1"), next)
	for range 2 * hopQueue { // no reader: the rest is lost
		if err := w.Send([][]byte{{1}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	bufs, sizes := [][]byte{make([]byte, 99), make([]byte, 99)}, make([]int, 2)
	if n, err := l.Read(bufs, sizes, 16); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if u, err := ParseUDP(bufs[0][16 : 16+sizes[0]]); err != nil || u.To != next || u.From != h.own {
		t.Errorf("%v, %v", u, err)
	}
	fns, _, err := w.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Open(0); err == nil {
		t.Error("opened twice")
	}
	// Only what the next node sent comes through.
	put := func(from string) {
		l.Write([][]byte{UDP{netip.MustParseAddrPort(from), h.own, []byte(from)}.Packet()}, 0)
	}
	put("192.0.2.1:2")
	put("192.0.2.2:1")
	put("192.0.2.1:1")
	eps := make([]conn.Endpoint, 2)
	n, err := fns[0](bufs, sizes, eps)
	if err != nil || n != 1 || string(bufs[0][:sizes[0]]) != "192.0.2.1:1" {
		t.Errorf("%d, %v", n, err)
	}
	w.Close()
	w.Close()
	if _, err := fns[0](bufs, sizes, eps); err != net.ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	h.Close()
	h.Close()
}

// What is asked through a tunnel is asked again until an answer will do, and a joint that
// closes ends it.
func TestAHopAsks(t *testing.T) {
	own, to := netip.MustParseAddrPort("100.64.0.9:30000"), netip.MustParseAddrPort("100.64.0.1:53")
	h := NewHop(netip.AddrPort{}, netip.AddrPort{}, 1420)
	l, done := h.Line(), make(chan error, 1)
	bufs, sizes := [][]byte{make([]byte, 99)}, make([]int, 1)
	go func() {
		done <- h.Ask(t.Context(), own, to, []byte("q"), func(b []byte) bool { return string(b) == "yes" })
	}()
	for _, answer := range []string{"", "no", "yes"} { // lost, another's, and the one
		if n, err := l.Read(bufs, sizes, 16); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if u, err := ParseUDP(bufs[0][16 : 16+sizes[0]]); err != nil || u.From != own || u.To != to || string(u.Body) != "q" {
			t.Errorf("%v, %v", u, err)
		}
		stranger := UDP{From: netip.MustParseAddrPort("100.64.0.3:53"), To: own, Body: []byte("yes")}.Packet()
		l.Write([][]byte{stranger}, 0)
		if answer != "" {
			l.Write([][]byte{UDP{From: to, To: own, Body: []byte(answer)}.Packet()}, 0)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	h.Close()
	if err := h.Ask(t.Context(), own, to, nil, func([]byte) bool { return false }); err == nil {
		t.Error("a joint that is closed answered")
	}
}
