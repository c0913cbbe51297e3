package wg

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// batch is how many datagrams travel together.
const batch = conn.IdealBatchSize

// A Carrier carries datagrams to one other end: what lib/carry dials or accepts.
type Carrier interface {
	Send(bufs [][]byte) error
	Receive(bufs [][]byte, sizes []int) (int, error)
	RemoteAddr() netip.AddrPort
	Close() error
}

// carrierEnd is the endpoint that a carrier is.
type carrierEnd struct {
	c    Carrier
	addr netip.AddrPort
}

func (e *carrierEnd) ClearSrc()           {}
func (e *carrierEnd) SrcToString() string { return "" }
func (e *carrierEnd) DstToString() string { return e.addr.String() }
func (e *carrierEnd) DstToBytes() []byte  { b, _ := e.addr.MarshalBinary(); return b }
func (e *carrierEnd) DstIP() netip.Addr   { return e.addr.Addr() }
func (e *carrierEnd) SrcIP() netip.Addr   { return netip.Addr{} }

// Carried is the way over one carrier, of a client.
type Carried struct {
	c      Carrier
	closed atomic.Bool
}

// NewCarried is the way over a carrier. Whoever dialled it closes it, after the
// device.
func NewCarried(c Carrier) *Carried { return &Carried{c: c} }

func (w *Carried) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	w.closed.Store(false)
	end := &carrierEnd{w.c, w.c.RemoteAddr()}
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := w.c.Receive(bufs, sizes)
		for i := range n {
			eps[i] = end
		}
		if err != nil || w.closed.Load() {
			return 0, net.ErrClosed
		}
		return n, nil
	}}, 0, nil
}

// Close ends the carrier too: nothing else interrupts what waits on it.
func (w *Carried) Close() error {
	w.closed.Store(true)
	return w.c.Close()
}

func (w *Carried) SetMark(uint32) error { return nil }

func (w *Carried) Send(bufs [][]byte, _ conn.Endpoint) error { return w.c.Send(bufs) }

func (w *Carried) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &carrierEnd{w.c, a}, nil
}

func (w *Carried) BatchSize() int { return batch }

// Ways is UDP and, beside it, carriers that come and go: the way of an exit.
type Ways struct {
	conn.Bind
	in chan parcel

	mu   sync.Mutex
	gone chan struct{} // closed with the way
}

// parcel is a batch from a carrier. The carrier waits until it is taken.
type parcel struct {
	bufs  [][]byte
	end   *carrierEnd
	taken chan struct{}
}

// NewWays is UDP, with room for carriers.
func NewWays() *Ways { return &Ways{Bind: conn.NewStdNetBind(), in: make(chan parcel)} }

func (w *Ways) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := w.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	gone := make(chan struct{})
	w.mu.Lock()
	w.gone = gone
	w.mu.Unlock()
	return append(fns, func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case p := <-w.in:
			n := min(len(p.bufs), len(bufs))
			for i := range n {
				sizes[i], eps[i] = copy(bufs[i], p.bufs[i]), p.end
			}
			close(p.taken)
			return n, nil
		case <-gone:
			return 0, net.ErrClosed
		}
	}), port, nil
}

func (w *Ways) Close() error {
	w.mu.Lock()
	if w.gone != nil {
		close(w.gone)
		w.gone = nil
	}
	w.mu.Unlock()
	return w.Bind.Close()
}

// Carry takes what comes over a carrier, until it or the way closes.
func (w *Ways) Carry(c Carrier) {
	w.mu.Lock()
	gone := w.gone
	w.mu.Unlock()
	if gone == nil {
		return
	}
	end := &carrierEnd{c, c.RemoteAddr()}
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	for {
		n, err := c.Receive(bufs, sizes)
		if err != nil {
			return
		}
		p := parcel{make([][]byte, n), end, make(chan struct{})}
		for i := range n {
			p.bufs[i] = bufs[i][:sizes[i]]
		}
		select {
		case w.in <- p:
			<-p.taken
		case <-gone:
			return
		}
	}
}

func (w *Ways) Send(bufs [][]byte, ep conn.Endpoint) error {
	if e, ok := ep.(*carrierEnd); ok {
		return e.c.Send(bufs)
	}
	return w.Bind.Send(bufs, ep)
}

// A Hop is a pair: the line of a tunnel to one node, and the way of the tunnel to
// the next, whose datagrams are packets on that line.
type Hop struct {
	next netip.AddrPort // the other end of the next tunnel
	mtu  int
	out  chan []byte // datagrams of the next tunnel, as packets for this one
	in   chan []byte // packets that came
	wake chan struct{}

	mu     sync.Mutex
	own    netip.AddrPort // inner address in the tunnel before, and a port
	closed chan struct{}
	shut   bool
}

// hopQueue is how many packets wait between two tunnels; more are lost.
const hopQueue = 4 * batch

// NewHop makes the joint to the node at next. own is our inner address in the tunnel
// before, with any port; it may be set later by SetOwn.
func NewHop(own, next netip.AddrPort, mtu int) *Hop {
	return &Hop{own: own, next: next, mtu: mtu, out: make(chan []byte, hopQueue), in: make(chan []byte, hopQueue), wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

// SetOwn says which inner address the node before gave us.
func (h *Hop) SetOwn(a netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.own = a
}

func (h *Hop) address() netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own
}

// Line is the tunnel's to the node before.
func (h *Hop) Line() Line { return hopLine{h} }

// Way is the tunnel's to the node after.
func (h *Hop) Way() conn.Bind { return &hopWay{h: h} }

// Close ends both.
func (h *Hop) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.shut {
		h.shut = true
		close(h.closed)
	}
	return nil
}

type hopLine struct{ h *Hop }

func (l hopLine) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	select {
	case p := <-l.h.out:
		sizes[0] = copy(bufs[0][offset:], p)
	case <-l.h.wake:
		return 0, nil
	case <-l.h.closed:
		return 0, net.ErrClosed
	}
	for n = 1; n < len(bufs); n++ {
		select {
		case p := <-l.h.out:
			sizes[n] = copy(bufs[n][offset:], p)
		default:
			return n, nil
		}
	}
	return n, nil
}

func (l hopLine) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		u, err := ParseUDP(b[offset:])
		if err != nil || u.From != l.h.next {
			continue
		}
		select {
		case l.h.in <- append([]byte{}, u.Body...):
		default: // the next tunnel is slower: as a full line
		}
	}
	return len(bufs), nil
}

func (l hopLine) Wake() {
	select {
	case l.h.wake <- struct{}{}:
	default:
	}
}

func (l hopLine) MTU() int       { return l.h.mtu }
func (l hopLine) BatchSize() int { return batch }
func (l hopLine) Close() error   { return l.h.Close() }

type hopWay struct {
	h    *Hop
	mu   sync.Mutex
	gone chan struct{}
}

func (w *hopWay) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	gone := make(chan struct{})
	w.mu.Lock()
	w.gone = gone
	w.mu.Unlock()
	end := &conn.StdNetEndpoint{AddrPort: w.h.next}
	return []conn.ReceiveFunc{func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
		select {
		case p := <-w.h.in:
			sizes[0], eps[0] = copy(bufs[0], p), end
		case <-gone:
			return 0, net.ErrClosed
		case <-w.h.closed:
			return 0, net.ErrClosed
		}
		for n = 1; n < len(bufs); n++ {
			select {
			case p := <-w.h.in:
				sizes[n], eps[n] = copy(bufs[n], p), end
			default:
				return n, nil
			}
		}
		return n, nil
	}}, 0, nil
}

func (w *hopWay) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone != nil {
		close(w.gone)
		w.gone = nil
	}
	return nil
}

func (w *hopWay) SetMark(uint32) error { return nil }

var errNoAddress = errors.New("no address in the tunnel before yet")

func (w *hopWay) Send(bufs [][]byte, _ conn.Endpoint) error {
	own := w.h.address()
	if !own.IsValid() {
		return errNoAddress
	}
	for _, b := range bufs {
		select {
		case w.h.out <- UDP{From: own, To: w.h.next, Body: b}.Packet():
		default:
		}
	}
	return nil
}

func (w *hopWay) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &conn.StdNetEndpoint{AddrPort: a}, nil
}

func (w *hopWay) BatchSize() int { return batch }
