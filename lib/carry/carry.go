// Package carry is hidden carriage: somebody else's datagrams, as WireGuard's,
// inside QUIC (HTTP/3 and its datagrams, RFC 9221 and 9297) or a TLS websocket,
// so that who watches the line, or knocks, sees a web server.
//
//	HC1  who has not proved the key gets what the cover answers, byte for byte,
//	     over HTTP/1.1, 2 and 3
//	HC2  a proof holds on the one TLS connection that it was made for
//	HC3  a datagram comes out as it was put in, or not at all
//	HC4  Send waits no longer than its bound; what finds no room is dropped, and
//	     counted
//	HC5  strangers are bounded: in number, for each source, and in time
//	HC6  nothing is left running when Close, or the server's Run, has returned
//	HC7  datagrams of 1,312 bytes, an inner packet of 1,280 in WireGuard, fit from
//	     the first one on
//	HC8  with Pad, every size up to 1,024 bytes shows as one of three
//
// It is not for secrecy or for who is at the other end: what is carried brings
// that itself, and reconnects. The bytes are in docs/wire.md, "Hidden carriage".
package carry

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"top/lib/top"
)

// Kind is a way to carry.
type Kind string

// The kinds. QUIC loses and reorders as UDP does; WSS is a TCP connection: it
// loses nothing that it took, and stalls behind what the network lost.
const (
	QUIC Kind = "quic"
	WSS  Kind = "wss"
)

// Bounds of a carrier.
const (
	sendWait    = 20 * time.Millisecond  // that Send waits for room (HC4)
	staleWait   = 250 * time.Millisecond // what waited longer for the line is dropped
	queueSize   = 128 << 10              // bytes that wait for the line
	inboxSize   = 1 << 20                // bytes of QUIC that wait for Receive, with what a datagram costs
	perDatagram = 64                     // beside its bytes
	dialWait    = 15 * time.Second       // for all of Dial
	closeWait   = time.Second            // for a last word
)

// A Conn carries datagrams to one peer and back. Send may be called by several at
// once, Receive by one at a time.
type Conn interface {
	// Send takes copies of the datagrams, in order. When the line is full it waits
	// up to 20 ms for room, then drops the rest; Stats counts them. An error says
	// that the carrier has ended.
	Send(bufs [][]byte) error
	// Receive waits for at least one datagram, then takes as many as are there and
	// fit into bufs. A datagram longer than its buffer is dropped.
	Receive(bufs [][]byte, sizes []int) (n int, err error)
	// Close ends the carrier, and waits for what it runs.
	Close() error
	LocalAddr() netip.AddrPort
	RemoteAddr() netip.AddrPort // of QUIC it follows a peer that moves
	Kind() Kind
	// MTU is the longest datagram that fits now, in bytes. QUIC's grows as it
	// learns the path: from 1,320 to 1,412.
	MTU() int
	Stats() Stats
}

// Stats counts from the beginning of a Conn.
type Stats struct {
	Sent, Received           uint64 // datagrams
	SentBytes, ReceivedBytes uint64 // of datagrams
	Full                     uint64 // dropped by Send: no room within its wait
	Stale                    uint64 // dropped on the way out: the line took none for 250 ms
	TooLong                  uint64 // dropped either way: longer than the MTU, or than the reader's buffer
	Unread                   uint64 // dropped on the way in: nobody called Receive
	Wire                     uint64 // bytes handed to TLS or QUIC: SentBytes, framing and padding
}

// DialConfig says to whom. Certificates: what is carried is secret and
// authenticated by itself, so they decide only who may learn that this is a
// carrier and not a browser: whoever sits on the line with a certificate that the
// client takes. Of RootCAs, Pin and AnyCertificate at most one is given.
type DialConfig struct {
	Kind       Kind
	Addr       string   // host:port; a host that is a name is looked up outside Control
	ServerName string   // what the TLS handshake says in clear; empty: Addr's host, if it is a name
	Key        [32]byte // the exit's WireGuard public key: what a prober does not know

	RootCAs        *x509.CertPool // the certificate must descend from one of these; nil, with no other: from the system's
	Pin            [32]byte       // SHA-256 of the certificate's SubjectPublicKeyInfo (PinOf); the name and the dates do not matter
	AnyCertificate bool           // whoever answers: a line that looks inside TLS sees the request, which proves nothing elsewhere (HC2)

	Pad bool // small datagrams show in three sizes (HC8)

	// Control is called with each socket before it connects, as net.Dialer's is:
	// for a mark that lets it past a kill switch.
	Control func(network, address string, c syscall.RawConn) error
	// DialTCP and ListenUDP, when given, are used instead of sockets of this
	// machine, as when one carrier runs through another tunnel.
	DialTCP   func(ctx context.Context, address string) (net.Conn, error)
	ListenUDP func(ctx context.Context) (net.PacketConn, error)

	Log *slog.Logger // nil is silent
}

// Dial connects to a server of this package and proves the key. Whatever else
// answers is top.ErrDenied; nobody there is top.ErrOffline.
func Dial(ctx context.Context, cfg DialConfig) (Conn, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conf, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	var c Conn
	switch cfg.Kind {
	case QUIC:
		c, err = dialQUIC(ctx, cfg, conf)
	case WSS:
		c, err = dialWSS(ctx, cfg, conf)
	default:
		return nil, fmt.Errorf("carrier of kind %q (there are quic and wss): %w", cfg.Kind, top.ErrUsage)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", cfg.Kind, cfg.Addr, err)
	}
	return c, nil
}

// addrPort is the form of this package's addresses; what is none is the zero one.
func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
