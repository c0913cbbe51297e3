package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"top/lib/top"
)

// Forward makes a Stack an exit: flows to addresses that are not its own are
// connected by these functions. Each may be called from many goroutines; its context
// ends with the flow. What they refuse is answered as a host without that service
// would: a reset, or an ICMP unreachable.
type Forward struct {
	// TCP connects to f.Dst. The client's SYN is answered when it returns. An error that
	// is a timeout is answered by silence, as the net would. nil refuses all.
	TCP func(ctx context.Context, f Flow) (net.Conn, error)

	// UDP gives a connection whose Write sends one datagram to f.Dst and whose Read
	// receives one. nil refuses all.
	UDP func(ctx context.Context, f Flow) (net.Conn, error)

	// Echo asks f.Dst for an echo of payload and returns when it came; Ping is one. The
	// ports of f are identifier and number of the client's. nil refuses all.
	Echo func(ctx context.Context, f Flow, payload []byte) error

	MaxFlows     int           // of all protocols; 0 is 16,384
	MaxPerSource int           // of one client's address; 0 is 1,024
	IdleTCP      time.Duration // 0 is 124 min (RFC 5382, REQ-5)
	IdleUDP      time.Duration // 0 is 2 min (RFC 4787, REQ-5)
	DialTimeout  time.Duration // of TCP and Echo; 0 is 10 s
}

// A Flow is who talks to whom.
type Flow struct {
	Proto    Proto
	Src, Dst netip.AddrPort
}

// Proto is the protocol of a flow.
type Proto uint8

// The protocols that are forwarded.
const (
	TCP  Proto = protoTCP
	UDP  Proto = protoUDP
	Echo Proto = protoICMP // of ICMP and ICMPv6
)

func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case Echo:
		return "echo"
	}
	return "unknown"
}

const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

var buffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// flows is the table of what an exit forwards.
type flows struct {
	cfg Forward

	mu      sync.Mutex
	all     map[Flow]*flow
	sources map[netip.Addr]map[*flow]bool
	ended   bool
}

// A flow is one entry. Whoever added it removes it when its context has ended.
type flow struct {
	Flow
	ctx  context.Context
	end  context.CancelFunc
	last atomic.Int64 // when something passed: time since the stack began
	up   chan []byte  // of UDP: from the client
	mine bool         // of TCP: has its goroutine; guarded by the table
}

// newFlows fills in the limits.
func newFlows(f *Forward) *flows {
	t := &flows{cfg: *f, all: map[Flow]*flow{}, sources: map[netip.Addr]map[*flow]bool{}}
	c := &t.cfg
	if c.MaxFlows == 0 {
		c.MaxFlows = 16384
	}
	if c.MaxPerSource == 0 {
		c.MaxPerSource = 1024
	}
	if c.IdleTCP == 0 {
		c.IdleTCP = 124 * time.Minute
	}
	if c.IdleUDP == 0 {
		c.IdleUDP = 2 * time.Minute
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	return t
}

func (t *flows) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

// get finds a flow, and when there is none makes one, whose goroutine the caller
// starts. nil says that the table is full: then the oldest idle UDP flow of that source
// has gone if it has one, and the flow is refused if it has none (N4).
func (s *Stack) get(f Flow) (fl *flow, made bool) {
	t := s.flows
	t.mu.Lock()
	defer t.mu.Unlock()
	if fl = t.all[f]; fl != nil {
		fl.last.Store(int64(time.Since(s.start)))
		return fl, false
	}
	if t.ended {
		return nil, false
	}
	mine := t.sources[f.Src.Addr()]
	if len(t.all) >= t.cfg.MaxFlows || len(mine) >= t.cfg.MaxPerSource {
		var oldest *flow
		for o := range mine {
			if o.Proto == UDP && (oldest == nil || o.last.Load() < oldest.last.Load()) {
				oldest = o
			}
		}
		if oldest == nil {
			s.refused.Add(1)
			return nil, false
		}
		t.removeLocked(oldest)
	}
	fl = &flow{Flow: f}
	fl.ctx, fl.end = context.WithCancel(s.ctx)
	fl.last.Store(int64(time.Since(s.start)))
	if f.Proto == UDP {
		fl.up = make(chan []byte, upQueue)
	}
	t.all[f] = fl
	if mine == nil {
		mine = map[*flow]bool{}
		t.sources[f.Src.Addr()] = mine
	}
	mine[fl] = true
	s.wg.Add(1)
	return fl, true
}

// upQueue is how many datagrams of a flow wait for the host.
const upQueue = 64

// done takes a flow out of the table, and ends it.
func (s *Stack) done(fl *flow) {
	s.flows.mu.Lock()
	s.flows.removeLocked(fl)
	s.flows.mu.Unlock()
	s.wg.Done()
}

func (t *flows) removeLocked(fl *flow) {
	fl.end()
	if t.all[fl.Flow] != fl {
		return
	}
	delete(t.all, fl.Flow)
	mine := t.sources[fl.Src.Addr()]
	delete(mine, fl)
	if len(mine) == 0 {
		delete(t.sources, fl.Src.Addr())
	}
}

// claim gives a TCP flow that has no goroutine yet to the one that asks.
func (t *flows) claim(f Flow) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	fl := t.all[f]
	if fl == nil || fl.mine {
		return nil
	}
	fl.mine = true
	return fl
}

func (t *flows) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
}

func (s *Stack) touch(fl *flow) { fl.last.Store(int64(time.Since(s.start))) }

// expire ends flows where nothing passed for too long.
func (s *Stack) expire() {
	t := s.flows
	tick := time.NewTicker(max(min(t.cfg.IdleTCP, t.cfg.IdleUDP)/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Since(s.start)
		t.mu.Lock()
		for _, fl := range t.all {
			idle := now - time.Duration(fl.last.Load())
			if fl.Proto == TCP && idle > t.cfg.IdleTCP || fl.Proto == UDP && idle > t.cfg.IdleUDP {
				fl.end()
			}
		}
		t.mu.Unlock()
	}
}

// tcpHandler takes the SYNs that no socket of the stack takes, once there is room for
// their flows: a flood of others costs no goroutine.
func (s *Stack) tcpHandler() func(stack.TransportEndpointID, *stack.PacketBuffer) bool {
	f := tcp.NewForwarder(s.stack, firstBuffer, s.flows.cfg.MaxFlows+1, s.accept)
	return func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		fl := Flow{TCP, addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}
		flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
		if s.isOwn(fl.Dst.Addr()) || flags&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
			return false
		}
		entry, made := s.get(fl)
		if entry == nil {
			return false
		}
		took := f.HandlePacket(id, pkt)
		if made && !took {
			s.done(entry)
		}
		return took
	}
}

// accept connects one TCP flow, in a goroutine of its own.
func (s *Stack) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	fl := s.flows.claim(Flow{TCP, addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)})
	if fl == nil {
		// Its ports are those of a connection that is not quite gone.
		r.Complete(true)
		return
	}
	defer s.done(fl)
	host, err := s.dialHost(fl)
	if err != nil {
		s.refused.Add(1)
		var ne net.Error
		silent := errors.Is(err, top.ErrTimeout) || errors.As(err, &ne) && ne.Timeout() && !errors.Is(err, syscall.ECONNREFUSED)
		r.Complete(!silent)
		return
	}
	defer host.Close()
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(false)
	if terr != nil {
		reset(host)
		return
	}
	keepAlive(ep)
	s.relay(fl, &Conn{gonet.NewTCPConn(&wq, ep), ep}, host)
}

func (s *Stack) dialHost(fl *flow) (net.Conn, error) {
	if s.flows.cfg.TCP == nil {
		return nil, top.ErrDenied
	}
	ctx, cancel := context.WithTimeout(fl.ctx, s.flows.cfg.DialTimeout)
	defer cancel()
	c, err := s.flows.cfg.TCP(ctx, fl.Flow)
	if err == nil && fl.ctx.Err() != nil {
		c.Close()
		return nil, fl.ctx.Err()
	}
	return c, err
}

// relay carries both ways until both have ended, one was reset, or the flow is ended.
func (s *Stack) relay(fl *flow, inner *Conn, host net.Conn) {
	defer inner.Close()
	stop := atEnd(fl.ctx, func() {
		inner.Reset()
		reset(host)
	})
	defer stop()
	touch := func() { s.touch(fl) }
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := pump(host, inner.TCPConn, touch)
		if w, ok := host.(interface{ CloseWrite() error }); err == nil && ok {
			w.CloseWrite()
			return
		}
		fl.end()
	})
	wg.Go(func() {
		if _, err := pump(inner.TCPConn, host, touch); err != nil {
			fl.end()
			return
		}
		inner.CloseWrite()
	})
	wg.Wait()
}

// reset closes a connection of the host so that the other side sees it cut off.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

// atEnd runs f when ctx ends, unless stop was called before; stop waits for an f that
// has begun.
func atEnd(ctx context.Context, f func()) (stop func()) {
	done := make(chan struct{})
	keep := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() {
		if !keep() {
			<-done
		}
	}
}
