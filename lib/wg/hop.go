package wg

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// A Hop is a pair: the line of a tunnel to one node, and the way of the tunnel to
// the next, whose datagrams are packets on that line.
type Hop struct {
	mtu  int
	out  chan []byte // datagrams of the next tunnel, as packets for this one
	in   chan []byte // datagrams that came for the next tunnel
	wake chan struct{}

	mu     sync.Mutex
	own    netip.AddrPort // inner address in the tunnel before, and a port
	next   netip.AddrPort // the other end of the next tunnel
	closed chan struct{}
	shut   bool
}

// hopQueue is how many packets wait between two tunnels; more are lost.
const hopQueue = 4 * batch

// NewHop makes the joint to the node at next, on a line with that MTU. own is our
// inner address in the tunnel before, with any port. Both may be set later by Lead, and
// until then nothing is sent.
func NewHop(own, next netip.AddrPort, mtu int) *Hop {
	return &Hop{own: own, next: unmapped(next), mtu: mtu, out: make(chan []byte, hopQueue), in: make(chan []byte, hopQueue), wake: make(chan struct{}, 1), closed: make(chan struct{})}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Lead says which inner address the node before gave us, and where the next tunnel ends.
func (h *Hop) Lead(own, next netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.own, h.next = own, unmapped(next)
}

func (h *Hop) ends() (own, next netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own, h.next
}

// Ask sends a datagram through the tunnel before, from and to these ends, again and again
// until one comes back that will do. It is for before there is a tunnel to the next node,
// and Lead follows.
func (h *Hop) Ask(ctx context.Context, own, to netip.AddrPort, body []byte, will func([]byte) bool) error {
	h.Lead(own, to)
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		if err := (&hopWay{h: h}).Send([][]byte{body}, nil); err != nil {
			return err
		}
		for waits := true; waits; {
			select {
			case b := <-h.in:
				if will(b) {
					return nil
				}
			case <-again.C:
				waits = false
			case <-h.closed:
				return net.ErrClosed
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

const askAgain = 500 * time.Millisecond

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
		return 0, os.ErrClosed
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
	_, next := l.h.ends()
	for _, b := range bufs {
		u, err := ParseUDP(b[offset:])
		if err != nil || u.From != next {
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
	gone chan struct{} // closed with the way; nil while it is
}

func (w *hopWay) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	gone := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	w.gone = gone
	_, next := w.h.ends()
	end := &conn.StdNetEndpoint{AddrPort: next}
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

var errNoAddress = errors.New("no address of the next node's family in the tunnel before, yet")

func (w *hopWay) Send(bufs [][]byte, _ conn.Endpoint) error {
	own, next := w.h.ends()
	if !own.IsValid() || own.Addr().Is4() != next.Addr().Is4() {
		return errNoAddress
	}
	for _, b := range bufs {
		select {
		case w.h.out <- UDP{From: own, To: next, Body: b}.Packet():
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
