package vpn

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"top/lib/wg"
)

// A spring is a line with so many packets.
type spring struct {
	left   atomic.Int64
	pkt    []byte
	wake   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *spring) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	for ; n < len(bufs) && l.left.Add(-1) >= 0; n++ {
		sizes[n] = copy(bufs[n][offset:], l.pkt)
	}
	if n > 0 {
		return n, nil
	}
	select {
	case <-l.wake:
		return 0, nil
	case <-l.closed:
		return 0, os.ErrClosed
	}
}

func (l *spring) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }
func (l *spring) MTU() int                                { return mtuPlain }
func (l *spring) BatchSize() int                          { return 128 }
func (l *spring) Close() error                            { l.once.Do(func() { close(l.closed) }); return nil }
func (l *spring) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// TestWhatAnExitWouldNotCarryWaitsInTheLine sends more than the exit carries: none of it
// is lost, a bounded part is held, and the rest is not even read until there is room.
func TestWhatAnExitWouldNotCarryWaitsInTheLine(t *testing.T) {
	t.Parallel()
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer far.Close()
	const all = 10_000
	line := &spring{pkt: make([]byte, 1200), wake: make(chan struct{}, 1), closed: make(chan struct{})}
	line.pkt[0] = 0x45
	copy(line.pkt[16:20], []byte{9, 9, 9, 9})
	tun, err := newTunnel(tunnelConfig{To: target{addr: Address{Key: wg.NewPrivate().Public()}, end: far.LocalAddr().(*net.UDPAddr).AddrPort()}, Key: wg.NewPrivate(), Line: line, Log: quiet(), Now: time.Now})
	must(t, err)
	defer line.Close()
	defer tun.close()
	p := newPaying()
	tun.cur.Store(p)
	line.left.Store(all)
	line.Wake()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not %s: %d sent, %d held, %d dropped, %d unread", what, p.sent.Load(), p.gate.held(), p.gate.dropped.Load(), line.left.Load())
			}
		}
	}
	for limit := uint64(unit); p.sent.Load() < all*1200; limit += 4 * unit {
		wait("held or done", func() bool { return tun.Full() || line.left.Load() <= 0 })
		if n := p.gate.held(); n > 128*1200 || p.gate.dropped.Load() != 0 {
			t.Fatalf("%d bytes are held, %d were dropped", n, p.gate.dropped.Load())
		}
		tun.release(p, p.gate.raise(limit))
	}
	wait("all sent", func() bool { return p.sent.Load() == all*1200 && p.gate.dropped.Load() == 0 })
}
