// Package netstack is TCP/IP in user space on gVisor: one end of a tunnel without
// root. A client dials through it; an exit accepts whatever the client dials and
// connects it on the host. It knows no tunnel: whoever carries packets reads and
// writes them in batches. Who may send from which inner address is the tunnel's
// business, and where a flow may go its owner's, by Forward.
//
//	N1  a packet larger than the MTU never leaves, and none leaves that nothing asked for
//	N2  a flow that its owner refuses reaches nobody, and the client is told so at once
//	N3  a client's connection stands only when the one on the host does; each way ends
//	    by itself, and a reset is a reset on the other side
//	N4  flows are bounded in all and for each source, whatever a client sends; who has
//	    too many loses his own
//	N5  a packet that is malformed, has a wrong checksum, or names a source or
//	    destination that is no single other host, is dropped and counted
//	N6  batches change nothing that an end can see: bytes, order and flags of a stream
//	    are what single packets would have made of them
//	N7  queues are bounded: who sends faster than the tunnel takes waits
//	N8  after Close nothing is left
package netstack

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"top/lib/top"
)

// Config says what a Stack is.
type Config struct {
	Addrs   []netip.Addr // its inner addresses
	MTU     int          // of the tunnel, bytes of an IP packet, 1280 to 65535; 0 is 1420
	Forward *Forward     // what becomes of packets to other addresses; nil is a client: they are dropped
	Log     *slog.Logger // nil is silent
}

// A Stack is one end of a tunnel.
type Stack struct {
	cfg   Config
	stack *stack.Stack
	link  *link
	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	start time.Time
	flows *flows
	wg    sync.WaitGroup

	mu  sync.Mutex // of changes to own
	own atomic.Pointer[map[netip.Addr]bool]

	refused, malformed atomic.Uint64
}

const (
	nic = tcpip.NICID(1)

	defaultMTU = 1420 // WireGuard's, over IPv6 over Ethernet
	minMTU     = 1280 // RFC 8200, section 5

	// batch is how many packets change hands at once: what WireGuard's sockets take.
	batch = 128

	// 2 Gbit/s with a round trip of 100 ms are 25 MB under way. Sizes begin small, and
	// grow with what a flow really moves.
	firstBuffer = 1 << 20
	maxBuffer   = 32 << 20

	// keepIdle and keepEvery find an end that is gone: five probes.
	keepIdle  = 3 * time.Minute
	keepEvery = 30 * time.Second

	// timeWait is shorter than two lives of a segment (RFC 9293): within a tunnel none
	// is older than its queues.
	timeWait = 10 * time.Second
)

// Stats is what a Stack counted since New.
type Stats struct {
	Flows     int    // that stand now
	Refused   uint64 // flows that Forward or a limit refused
	Malformed uint64 // packets from the tunnel that were dropped (N5)
	Lost      uint64 // packets for the tunnel that found no room, or were too large
}

// New makes a Stack; Close ends it.
func New(cfg Config) (*Stack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.MTU < minMTU || cfg.MTU > 65535 {
		return nil, fmt.Errorf("netstack of MTU %d (want %d to 65535): %w", cfg.MTU, minMTU, top.ErrInvalid)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{cfg: cfg, link: newLink(cfg.MTU), start: time.Now()}
	s.own.Store(&map[netip.Addr]bool{})
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        cfg.Forward == nil,
	})
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.setUp(); err != nil {
		s.stop()
		s.link.shut()
		s.stack.Destroy()
		return nil, err
	}
	return s, nil
}

// setUp gives the stack its options, its line, its routes and its handlers.
func (s *Stack) setUp() error {
	// Of gVisor's congestion controls it is NewReno: its CUBIC begins without a maximum
	// when HyStart ends slow start, and an acknowledgement of many packets then takes the
	// window to nothing, for ever. Losses are found by RACK (RFC 8985): its older recovery
	// by SACK waits for timeouts, doubled each time.
	sack, moderate, reno := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.CongestionControlOption("reno")
	wait, recovery := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPRACKLossDetection
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &reno, &wait, &recovery,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: firstBuffer, Max: maxBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: firstBuffer, Max: maxBuffer},
	} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("netstack option %T: %s: %w", o, err, top.ErrFailed)
		}
	}
	if f := s.cfg.Forward; f != nil {
		s.flows = newFlows(f)
		s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, s.tcpHandler())
		s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, s.udpHandler)
		s.wg.Go(s.expire)
	}
	if err := s.stack.CreateNIC(nic, s.link); err != nil {
		return fmt.Errorf("netstack line: %s: %w", err, top.ErrFailed)
	}
	if s.cfg.Forward != nil {
		s.stack.SetPromiscuousMode(nic, true)
		s.stack.SetSpoofing(nic, true)
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	for _, a := range s.cfg.Addrs {
		if err := s.AddAddr(a); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all flows, connections and listeners, and returns when nothing of them
// is left. A Read under way returns net.ErrClosed.
func (s *Stack) Close() error {
	s.stop()
	s.link.shut()
	if s.flows != nil {
		s.flows.shut()
	}
	s.stack.Close()
	s.wg.Wait()
	s.stack.Wait()
	s.link.drain()
	return nil
}

// MTU is that of the tunnel, in bytes.
func (s *Stack) MTU() int { return s.cfg.MTU }

// BatchSize is how many packets Read and Write take best at once.
func (s *Stack) BatchSize() int { return batch }

// Stats is what was counted so far.
func (s *Stack) Stats() Stats {
	st := Stats{Refused: s.refused.Load(), Malformed: s.malformed.Load(), Lost: s.link.lost.Load()}
	if s.flows != nil {
		st.Flows = s.flows.len()
	}
	return st
}

// AddAddr gives the stack one more address of its own; one that it has is no error.
func (s *Stack) AddAddr(a netip.Addr) error {
	if !single(a) {
		return fmt.Errorf("inner address %s: %w", a, top.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.own.Load()
	if old[a] {
		return nil
	}
	pa := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
	if err := s.stack.AddProtocolAddress(nic, pa, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("inner address %s: %s: %w", a, err, top.ErrFailed)
	}
	own := map[netip.Addr]bool{a: true}
	for o := range old {
		own[o] = true
	}
	s.own.Store(&own)
	return nil
}

// RemoveAddr takes an address away, with what listens there.
func (s *Stack) RemoveAddr(a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.own.Load()
	if !old[a] {
		return fmt.Errorf("inner address %s: %w", a, top.ErrNotFound)
	}
	if err := s.stack.RemoveAddress(nic, tcpip.AddrFromSlice(a.AsSlice())); err != nil {
		return fmt.Errorf("inner address %s: %s: %w", a, err, top.ErrFailed)
	}
	own := map[netip.Addr]bool{}
	for o := range old {
		if o != a {
			own[o] = true
		}
	}
	s.own.Store(&own)
	return nil
}

func (s *Stack) isOwn(a netip.Addr) bool { return (*s.own.Load())[a] }

// ownLike is an address of the stack of the family of a; false when it has none.
func (s *Stack) ownLike(a netip.Addr) (netip.Addr, bool) {
	for o := range *s.own.Load() {
		if o.Is4() == a.Is4() {
			return o, true
		}
	}
	return netip.Addr{}, false
}

// single says whether an address is one host's, on a line: no group, no loopback, no
// mapped form of another.
func single(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: nic, Port: a.Port()}
	if !a.Addr().IsUnspecified() {
		f.Addr = tcpip.AddrFromSlice(a.Addr().AsSlice())
	}
	return f
}

// addrPort is one end of a gVisor flow.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(ip, port)
}
