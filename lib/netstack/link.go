package netstack

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A link is the line of the stack: what it sends waits here for Read. TCP hands over
// segments of up to 64 KiB, which Read cuts (stack.GSO: generic segmentation offload).
type link struct {
	mtu  uint32
	lost atomic.Uint64

	dispatcher atomic.Pointer[stack.NetworkDispatcher]

	mu       sync.Mutex
	out      fifo
	bytes    int // in out
	shutDown bool
	woken    bool      // Read returns without a packet
	some     sync.Cond // out is not empty, or the link is shut
	room     sync.Cond // bytes fell below the bound, or the link is shut

	cutMu sync.Mutex // one Read at a time
	cut   cutter
}

const (
	// queueBytes is when a sender waits: 4 ms at 2 Gbit/s.
	queueBytes = 1 << 20

	// queuePackets bounds what nobody waits for: answers that are made where packets of
	// the tunnel come in. Waiting there could wait for ever.
	queuePackets = 4096

	// superSize is the largest segment that TCP hands over, headers among it.
	superSize = 65535
)

func newLink(mtu int) *link {
	l := &link{mtu: uint32(mtu)}
	l.some.L, l.room.L = &l.mu, &l.mu
	return l
}

// WritePackets takes what the stack sends.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	taken := 0
	for _, pkt := range list.AsSlice() {
		if !l.put(pkt) {
			if taken == 0 {
				return 0, &tcpip.ErrNoBufferSpace{}
			}
			break
		}
		taken++
	}
	return taken, nil
}

// put queues a packet. Data waits for room (N7): its sender is a goroutine of the
// flow, or one that serves flows, and none that Read needs. Anything else is small,
// and lost when there is no room.
func (l *link) put(pkt *stack.PacketBuffer) bool {
	size := pkt.Size()
	if pkt.GSOOptions.Type == stack.GSONone && size > int(l.mtu) {
		l.lost.Add(1)
		return false
	}
	waits := pkt.TransportProtocolNumber == header.UDPProtocolNumber ||
		pkt.TransportProtocolNumber == header.TCPProtocolNumber && pkt.Data().Size() > 0
	l.mu.Lock()
	defer l.mu.Unlock()
	for waits && l.bytes >= queueBytes && !l.shutDown {
		l.room.Wait()
	}
	if l.shutDown || l.out.len() >= queuePackets {
		l.lost.Add(1)
		return false
	}
	l.out.push(pkt.IncRef())
	l.bytes += size
	if l.out.len() == 1 {
		l.some.Signal()
	}
	return true
}

// take gives the oldest packet, whose reference is the caller's. It waits for one if
// wait says so; nil is none, that the link is shut or, if woken, that wake was called.
func (l *link) take(wait bool) (pkt *stack.PacketBuffer, woken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wait && l.out.len() == 0 && !l.shutDown && !l.woken {
		l.some.Wait()
	}
	if l.woken && wait {
		l.woken = false
		if l.out.len() == 0 && !l.shutDown {
			return nil, true
		}
	}
	if l.shutDown || l.out.len() == 0 {
		return nil, false
	}
	pkt = l.out.pop()
	l.bytes -= pkt.Size()
	if l.bytes < queueBytes {
		l.room.Broadcast()
	}
	return pkt, false
}

// wake makes a read that waits, or the next, return without a packet.
func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.woken = true
	l.some.Broadcast()
}

// read fills bufs from offset on with packets, and waits for the first.
func (l *link) read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	l.cutMu.Lock()
	defer l.cutMu.Unlock()
	for n < len(bufs) {
		if l.cut.pkt == nil {
			pkt, woken := l.take(n == 0)
			if woken {
				return 0, nil
			}
			if pkt == nil {
				break
			}
			l.cut.begin(pkt)
		}
		size, ok := l.cut.next(bufs[n][offset:], int(l.mtu))
		if !ok {
			l.lost.Add(1)
			continue
		}
		sizes[n] = size
		n++
	}
	if n == 0 && len(bufs) > 0 {
		return 0, net.ErrClosed
	}
	return n, nil
}

func (l *link) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shutDown = true
	l.some.Broadcast()
	l.room.Broadcast()
}

// drain lets go of what nobody will read.
func (l *link) drain() {
	l.cutMu.Lock()
	defer l.cutMu.Unlock()
	l.cut.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.out.len() > 0 {
		l.out.pop().DecRef()
	}
	l.bytes = 0
}

// deliver hands a packet of the tunnel to the stack, and lets go of it.
func (l *link) deliver(pkt *stack.PacketBuffer, proto tcpip.NetworkProtocolNumber) {
	if d := l.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(proto, pkt)
	}
	pkt.DecRef()
}

// Attach is called by the stack: with nil when the line goes.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }
func (l *link) MTU() uint32      { return l.mtu }

// Capabilities: Write has looked at the checksums, whose sums joined segments no
// longer bear.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
func (l *link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (l *link) GSOMaxSize() uint32                      { return superSize }
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetMTU(uint32)                           {}
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Wait()                                   {}
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}

// A fifo is packets in a row, in a ring that grows.
type fifo struct {
	ring        []*stack.PacketBuffer // its length is a power of two
	first, last uint32                // count for ever; equal when there is none
}

func (f *fifo) len() int { return int(f.last - f.first) }

func (f *fifo) push(p *stack.PacketBuffer) {
	if f.len() == len(f.ring) {
		ring := make([]*stack.PacketBuffer, max(64, 2*len(f.ring)))
		for i := range f.len() {
			ring[i] = f.ring[(f.first+uint32(i))%uint32(len(f.ring))]
		}
		f.ring, f.first, f.last = ring, 0, uint32(f.len())
	}
	f.ring[f.last%uint32(len(f.ring))] = p
	f.last++
}

func (f *fifo) pop() *stack.PacketBuffer {
	i := f.first % uint32(len(f.ring))
	p := f.ring[i]
	f.ring[i] = nil
	f.first++
	return p
}
