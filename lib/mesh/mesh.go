// Package mesh is this machine's end of the libp2p network: an identity per
// role, listening addresses, and streams to and from strangers as plain
// connections.
//
//	N1  a connection's other end is the peer that its address names, or there is
//	    no connection
//	N2  strangers hold a bounded number of streams: in all, and each peer
//	N3  when Close returns nothing of the host is left
//
// It is not for what is said on a stream: that is the engine's that listens.
package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"

	"top/lib/keys"
	"top/lib/top"
)

// Bounds on what strangers hold (N2).
const (
	maxStreams     = 1024 // inbound, in all
	maxPeerStreams = 32   // inbound, of one peer
	backlog        = 16   // streams that wait for Accept; more are reset
	dialWait       = 10 * time.Second
)

// Config says who a Host is. The zero Listen dials only.
type Config struct {
	Key    keys.Private // of this role
	Listen []string     // multiaddresses, "/ip4/0.0.0.0/tcp/4001" or "/ip4/0.0.0.0/udp/4001/quic-v1"; none listens nowhere
	Reach  bool         // learn whether strangers reach this host, by AutoNAT v2, and punch holes to peers behind NAT, by DCUtR
	Hop    bool         // be a circuit relay v2 for hosts behind NAT, within its default limits: 128 KiB and 2 minutes a circuit
	Via    []string     // this host is behind NAT: reserve with these hops, multiaddresses with /p2p/, and be reached through them
	Log    *slog.Logger // nil is silent
}

// A Host is one identity on the mesh.
type Host struct {
	h     host.Host
	log   *slog.Logger
	reach reach

	mu        sync.Mutex
	all       int             // inbound streams held
	each      map[peer.ID]int // of them, by peer
	listeners []*listener
}

// New starts a host.
func New(cfg Config) (*Host, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	id, err := identity(cfg.Key)
	if err != nil {
		return nil, err
	}
	var listen []multiaddr.Multiaddr
	for _, text := range cfg.Listen {
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			return nil, top.Errorf(top.Invalid, "listen on %q: %v (want /ip4/0.0.0.0/tcp/PORT)", text, err)
		}
		listen = append(listen, a)
	}
	// It listens once it is made: when libp2p.New cannot listen it leaves
	// goroutines behind. With SO_REUSEPORT a second host would share the port of
	// the first.
	more, hops, err := cfg.reachOptions()
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(append(more, libp2p.Identity(id), libp2p.NoListenAddrs,
		libp2p.NoTransports, libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()), libp2p.Transport(quic.NewTransport),
		libp2p.Security(noise.ID, noise.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableMetrics(), libp2p.UserAgent("top/"+top.Version))...)
	if err != nil {
		return nil, fmt.Errorf("start mesh: %w", err)
	}
	for _, a := range listen {
		if err := h.Network().Listen(a); err != nil {
			h.Close()
			return nil, top.Errorf(top.Failed, "listen on %s: %v (is the port taken?)", a, err)
		}
	}
	m := &Host{h: h, log: cfg.Log, each: map[peer.ID]int{}}
	if err := m.reach.begin(h, hops, cfg.Log); err != nil {
		h.Close()
		return nil, fmt.Errorf("start mesh: %w", err)
	}
	return m, nil
}

// identity is a key as libp2p holds it.
func identity(k keys.Private) (crypto.PrivKey, error) {
	seed, pub := k.Seed(), k.Public()
	id, err := crypto.UnmarshalEd25519PrivateKey(append(seed[:], pub[:]...))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return id, nil
}

// ID is the name of a key's owner on the mesh: what stands after /p2p/.
func ID(k keys.Private) (string, error) {
	id, err := identity(k)
	if err != nil {
		return "", err
	}
	p, err := peer.IDFromPublicKey(id.GetPublic())
	if err != nil {
		return "", fmt.Errorf("identity: %w", err)
	}
	return p.String(), nil
}

// Addrs is where others dial this host: multiaddresses with /p2p/ and its name.
func (h *Host) Addrs() []string {
	var all []string
	for _, a := range h.h.Addrs() {
		all = append(all, a.String()+"/p2p/"+h.h.ID().String())
	}
	for _, a := range h.reach.circuits() {
		all = append(all, a+"/p2p/"+h.h.ID().String())
	}
	return all
}

// Peers is how many peers are connected.
func (h *Host) Peers() int { return len(h.h.Network().Peers()) }

// Close ends every connection and every listener (N3).
func (h *Host) Close() error {
	h.mu.Lock()
	all := h.listeners
	h.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
	h.reach.close()
	return h.h.Close()
}

// Dial opens a stream of a protocol to the peer at addr, a multiaddress that
// ends in /p2p/ and its name (N1). No answer is top.ErrOffline.
func (h *Host) Dial(ctx context.Context, proto, addr string) (net.Conn, error) {
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return nil, top.Errorf(top.Invalid, "address %q: %v (want /ip4/…/tcp/…/p2p/…)", addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	if err := h.h.Connect(ctx, *info); err != nil {
		return nil, top.Errorf(top.Offline, "no answer from %s", addr)
	}
	s, err := h.h.NewStream(network.WithAllowLimitedConn(ctx, "through a hop until a hole is punched"), info.ID, protocol.ID(proto))
	if err != nil {
		return nil, top.Errorf(top.Offline, "%s does not speak %s", addr, proto)
	}
	return newConn(s, nil), nil
}

// CheckAddr says why a text is no address of a peer.
func CheckAddr(addr string) error {
	if _, err := peer.AddrInfoFromString(addr); err != nil {
		return top.Errorf(top.Invalid, "address %q: %v (want /ip4/…/tcp/…/p2p/…)", addr, err)
	}
	return nil
}

// Listen gives the streams of a protocol that others open.
func (h *Host) Listen(proto string) net.Listener {
	l := &listener{h: h, proto: protocol.ID(proto), conns: make(chan *conn, backlog), gone: make(chan struct{})}
	h.mu.Lock()
	h.listeners = append(h.listeners, l)
	h.mu.Unlock()
	h.h.SetStreamHandler(l.proto, l.take)
	return l
}

// admit counts a stream in, unless there are too many (N2).
func (h *Host) admit(p peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= maxStreams || h.each[p] >= maxPeerStreams {
		return false
	}
	h.all++
	h.each[p]++
	return true
}

func (h *Host) release(p peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.each[p]--; h.each[p] == 0 {
		delete(h.each, p)
	}
}

type listener struct {
	h     *Host
	proto protocol.ID
	conns chan *conn // those that wait for Accept, backlog at most

	mu     sync.Mutex
	closed bool          // guarded by mu: nothing enters conns any more
	gone   chan struct{} // closed with it
}

// take hands a stream to Accept. It never blocks: when nobody accepts, the
// stream is reset.
func (l *listener) take(s network.Stream) {
	p := s.Conn().RemotePeer()
	if !l.h.admit(p) {
		l.h.log.Debug("too many streams", "peer", p.String())
		s.Reset()
		return
	}
	c := newConn(s, func() { l.h.release(p) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		select {
		case l.conns <- c:
			return
		default:
			l.h.log.Debug("nobody accepts", "peer", p.String())
		}
	}
	c.reset()
}

// Accept waits for the next stream.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and resets the streams that wait for it; those that were
// accepted go on.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	close(l.gone)
	l.h.h.RemoveStreamHandler(l.proto)
	for {
		select {
		case c := <-l.conns:
			c.reset()
		default:
			return nil
		}
	}
}

// Addr is the host's name.
func (l *listener) Addr() net.Addr { return addr{l.h.h.ID().String(), nil} }

// conn is a stream as a connection.
type conn struct {
	network.Stream
	once    sync.Once
	release func()
}

func newConn(s network.Stream, release func()) *conn { return &conn{Stream: s, release: release} }

// Close ends both directions.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		if err = c.Stream.Close(); errors.Is(err, network.ErrReset) {
			err = nil
		}
		c.leave()
	})
	return err
}

// reset ends the stream so that the other end sees an error, not an end.
func (c *conn) reset() {
	c.once.Do(func() {
		c.Reset()
		c.leave()
	})
}

func (c *conn) leave() {
	if c.release != nil {
		c.release()
	}
}

func (c *conn) LocalAddr() net.Addr {
	return addr{c.Conn().LocalPeer().String(), c.Conn().LocalMultiaddr()}
}

func (c *conn) RemoteAddr() net.Addr {
	return addr{c.Conn().RemotePeer().String(), c.Conn().RemoteMultiaddr()}
}

type addr struct {
	id string
	at multiaddr.Multiaddr
}

func (addr) Network() string  { return "libp2p" }
func (a addr) String() string { return a.id }
