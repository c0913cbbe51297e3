package wg

import (
	"net"
	"net/netip"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// batch is how many datagrams travel together.
const batch = conn.IdealBatchSize

// Of a carrier fewer come at once than of UDP: 288 KiB of buffers for each.
const (
	carrierBatch = 32
	carrierMTU   = 9 << 10 // more than a packet of 8,920 bytes sealed
)

// A Carrier carries datagrams to one other end: what lib/carry dials or accepts.
// Receive waits until Close.
type Carrier interface {
	Send(bufs [][]byte) error
	Receive(bufs [][]byte, sizes []int) (int, error)
	RemoteAddr() netip.AddrPort
	Close() error
}

// carrierEnd is the endpoint that a carrier is. Its address may move.
type carrierEnd struct{ c Carrier }

func (e *carrierEnd) ClearSrc()           {}
func (e *carrierEnd) SrcToString() string { return "" }
func (e *carrierEnd) DstToString() string { return e.c.RemoteAddr().String() }
func (e *carrierEnd) DstToBytes() []byte  { b, _ := e.c.RemoteAddr().MarshalBinary(); return b }
func (e *carrierEnd) DstIP() netip.Addr   { return e.c.RemoteAddr().Addr() }
func (e *carrierEnd) SrcIP() netip.Addr   { return netip.Addr{} }

// intake hands a device what others read: it may be opened and closed again (as
// wireguard does when it comes up and when its port changes) without them.
type intake struct {
	in chan parcel

	mu   sync.Mutex
	gone chan struct{} // closed with the way; nil while it is
}

// parcel is a batch. Who put it waits until it is taken.
type parcel struct {
	bufs  [][]byte
	end   conn.Endpoint
	taken chan struct{}
}

func newIntake() *intake { return &intake{in: make(chan parcel)} }

func (k *intake) open() conn.ReceiveFunc {
	gone := make(chan struct{})
	k.mu.Lock()
	k.gone = gone
	k.mu.Unlock()
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		select {
		case p := <-k.in:
			n := min(len(p.bufs), len(bufs))
			for i := range n {
				sizes[i], eps[i] = copy(bufs[i], p.bufs[i]), p.end
			}
			p.taken <- struct{}{}
			return n, nil
		case <-gone:
			return 0, net.ErrClosed
		}
	}
}

func (k *intake) shut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone != nil {
		close(k.gone)
		k.gone = nil
	}
}

// put waits until a parcel is taken. While the way is closed it is lost.
func (k *intake) put(p parcel) {
	k.mu.Lock()
	gone := k.gone
	k.mu.Unlock()
	if gone == nil {
		return
	}
	select {
	case k.in <- p:
		<-p.taken
	case <-gone:
	}
}

// carry puts what comes over a carrier until it ends.
func (k *intake) carry(c Carrier) {
	bufs, sizes := make([][]byte, carrierBatch), make([]int, carrierBatch)
	for i := range bufs {
		bufs[i] = make([]byte, carrierMTU)
	}
	p := parcel{make([][]byte, carrierBatch), &carrierEnd{c}, make(chan struct{})}
	for {
		n, err := c.Receive(bufs, sizes)
		if err != nil {
			return
		}
		p.bufs = p.bufs[:n]
		for i := range n {
			p.bufs[i] = bufs[i][:sizes[i]]
		}
		k.put(p)
	}
}

// Carried is the way over one carrier, of a client.
type Carried struct {
	c     Carrier
	in    *intake
	begin sync.Once
}

// NewCarried is the way over a carrier. The device leaves the carrier alone, as it
// closes and opens its way more than once: whoever dialled it closes it, after the
// device, and with it ends what Carried runs.
func NewCarried(c Carrier) *Carried { return &Carried{c: c, in: newIntake()} }

func (w *Carried) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive := w.in.open()
	w.begin.Do(func() { go w.in.carry(w.c) })
	return []conn.ReceiveFunc{receive}, 0, nil
}

func (w *Carried) Close() error {
	w.in.shut()
	return nil
}

func (w *Carried) SetMark(uint32) error { return nil }

func (w *Carried) Send(bufs [][]byte, _ conn.Endpoint) error { return w.c.Send(bufs) }

// ParseEndpoint takes any address: there is one other end.
func (w *Carried) ParseEndpoint(s string) (conn.Endpoint, error) {
	if _, err := netip.ParseAddrPort(s); err != nil {
		return nil, err
	}
	return &carrierEnd{w.c}, nil
}

func (w *Carried) BatchSize() int { return batch }

// Ways is UDP and, beside it, carriers that come and go: the way of an exit.
type Ways struct {
	conn.Bind
	in *intake
}

// NewWays is UDP, with room for carriers.
func NewWays() *Ways { return &Ways{newUDP(true), newIntake()} }

func (w *Ways) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, port, err := w.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	return append(fns, w.in.open()), port, nil
}

func (w *Ways) Close() error {
	w.in.shut()
	return w.Bind.Close()
}

// Carry takes what comes over a carrier, until the carrier closes. What comes while
// the way is closed is lost, as in UDP.
func (w *Ways) Carry(c Carrier) { w.in.carry(c) }

func (w *Ways) Send(bufs [][]byte, ep conn.Endpoint) error {
	if e, ok := ep.(*carrierEnd); ok {
		return e.c.Send(bufs)
	}
	return w.Bind.Send(bufs, ep)
}
