package carry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"top/lib/top"
)

// What a QUIC connection of either end is set to.
const (
	// firstPacket is the size of packets before the path is known, such that
	// quic-go leaves 1,323 bytes to a datagram (HC7); it grows to 1,452.
	firstPacket  = 1360
	longestFrame = 16 << 10 // longer than any packet
	idleWait     = 30 * time.Second
	keepAlive    = 10 * time.Second
	handshake    = 5 * time.Second
	noError      = quic.ApplicationErrorCode(http3.ErrCodeNoError)
)

// streamZero is the prefix of an HTTP datagram (RFC 9297, section 2.1) that
// belongs to the connection's first request.
const streamZero = 0

// quicConn is an HTTP/3 connection whose first request was proved, and is never
// finished; the datagrams are of that request. quic-go's own queues hold 32 to
// send, then block, and drop beyond 128 received, of which its HTTP layer keeps
// 32: so both ends keep datagrams away from that layer, by not asking for them in
// their SETTINGS or not reading the other's, and have queues of their own.
type quicConn struct {
	c   *quic.Conn
	out *outbox
	end func() // of the socket

	mu    sync.Mutex
	inbox [][]byte // datagrams
	next  int      // of inbox
	bytes int      // from next on
	come  chan struct{}

	closing sync.Once
	run     sync.WaitGroup
}

func newQUIC(c *quic.Conn, pad bool, end func()) *quicConn {
	q := &quicConn{c: c, out: newOutbox(roomOf(c), pad, streamZero), end: end, come: make(chan struct{}, 1)}
	q.run.Go(func() {
		defer q.out.close()
		q.out.run(q.write)
	})
	q.run.Go(func() {
		defer q.out.close()
		q.read()
	})
	return q
}

// roomOf is how many bytes a datagram may have now: quic-go says so of one that is
// too long.
func roomOf(c *quic.Conn) int {
	err := c.SendDatagram(make([]byte, longestFrame))
	if long, ok := err.(*quic.DatagramTooLargeError); ok {
		return int(long.MaxDatagramPayloadSize)
	}
	return 0
}

func (q *quicConn) Kind() Kind                 { return QUIC }
func (q *quicConn) Stats() Stats               { return q.out.counts.stats() }
func (q *quicConn) LocalAddr() netip.AddrPort  { return addrPort(q.c.LocalAddr()) }
func (q *quicConn) RemoteAddr() netip.AddrPort { return addrPort(q.c.RemoteAddr()) }
func (q *quicConn) Send(bufs [][]byte) error   { return q.out.put(bufs) }

func (q *quicConn) MTU() int {
	room := roomOf(q.c)
	if room > 0 {
		q.out.setLimit(room)
	}
	return room - 1 - frameHead
}

// write hands one parcel to QUIC, and waits while the congestion window is full.
func (q *quicConn) write(parcel []byte) (sent bool, err error) {
	err = q.c.SendDatagram(parcel)
	if long, ok := err.(*quic.DatagramTooLargeError); ok {
		q.out.setLimit(int(long.MaxDatagramPayloadSize))
		return false, nil
	}
	return err == nil, err
}

// read takes datagrams off quic-go's queue until the connection ends.
func (q *quicConn) read() {
	for {
		b, err := q.c.ReceiveDatagram(context.Background())
		if err != nil {
			return
		}
		if len(b) == 0 || b[0] != streamZero {
			continue
		}
		q.mu.Lock()
		for row := b[1:]; len(row) > 0; {
			var datagram []byte
			if datagram, row, err = nextFrame(row); err != nil {
				break
			}
			switch {
			case datagram == nil:
			case q.bytes+len(datagram)+perDatagram > inboxSize:
				q.out.counts.unread.Add(1)
			default:
				q.inbox = append(q.inbox, datagram)
				q.bytes += len(datagram) + perDatagram
			}
		}
		q.mu.Unlock()
		signal(q.come)
	}
}

func (q *quicConn) Receive(bufs [][]byte, sizes []int) (n int, err error) {
	for {
		q.mu.Lock()
		for n < len(bufs) && q.next < len(q.inbox) {
			b := q.inbox[q.next]
			q.inbox[q.next] = nil
			q.next++
			q.bytes -= len(b) + perDatagram
			if len(b) > len(bufs[n]) {
				q.out.counts.tooLong.Add(1)
				continue
			}
			sizes[n] = copy(bufs[n], b)
			q.out.counts.receivedBytes.Add(uint64(len(b)))
			n++
		}
		if q.next == len(q.inbox) {
			q.inbox, q.next = q.inbox[:0], 0
		} else if q.next >= cap(q.inbox)/2 {
			q.inbox, q.next = append(q.inbox[:0], q.inbox[q.next:]...), 0
		}
		q.mu.Unlock()
		if n > 0 || len(bufs) == 0 {
			q.out.counts.received.Add(uint64(n))
			return n, nil
		}
		select {
		case <-q.come:
		case <-q.c.Context().Done():
			return 0, fmt.Errorf("receive: %v: %w", context.Cause(q.c.Context()), net.ErrClosed)
		}
	}
}

func (q *quicConn) Close() error {
	q.closing.Do(func() {
		q.out.close()
		q.c.CloseWithError(noError, "")
		q.run.Wait()
		q.end()
	})
	return nil
}

// dialQUIC opens an HTTP/3 connection and makes its first request the carrier.
func dialQUIC(ctx context.Context, cfg DialConfig, conf *tls.Config) (Conn, error) {
	listen := cfg.ListenUDP
	if listen == nil {
		l := &net.ListenConfig{Control: cfg.Control}
		listen = func(ctx context.Context) (net.PacketConn, error) { return l.ListenPacket(ctx, "udp", ":0") }
	}
	to, err := net.ResolveUDPAddr("udp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, top.ErrUsage)
	}
	socket, err := listen(ctx)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	t := &quic.Transport{Conn: socket}
	end := func() { t.Close(); socket.Close() }
	conf.NextProtos = []string{http3.NextProtoH3}
	c, err := t.Dial(ctx, to, conf, quicConfig())
	if err != nil {
		end()
		return nil, tlsError(err)
	}
	if err := connect(ctx, c, cfg); err != nil {
		c.CloseWithError(noError, "")
		end()
		return nil, err
	}
	return newQUIC(c, cfg.Pad, end), nil
}

func quicConfig() *quic.Config {
	return &quic.Config{
		EnableDatagrams: true, InitialPacketSize: firstPacket, MaxIdleTimeout: idleWait, KeepAlivePeriod: keepAlive, HandshakeIdleTimeout: handshake,
	}
}

// connect makes the request of an extended CONNECT (RFC 9220), with the proof in a
// cookie.
func connect(ctx context.Context, c *quic.Conn, cfg DialConfig) error {
	r, err := request(ctx, cfg, c.ConnectionState().TLS)
	if err != nil {
		return err
	}
	r.Method, r.Proto = http.MethodConnect, "connect-udp"
	h := (&http3.Transport{DisableCompression: true}).NewRawClientConn(c)
	stream, err := h.OpenRequestStream(ctx)
	if err != nil {
		return fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	stop := context.AfterFunc(ctx, func() { stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled)) })
	defer stop()
	if err := stream.SendRequestHeader(r); err != nil {
		return fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	answer, err := stream.ReadResponse()
	switch {
	case err != nil:
		return fmt.Errorf("%v: %w", err, top.ErrOffline)
	case answer.StatusCode != http.StatusOK || answer.Header.Get("Capsule-Protocol") == "":
		return fmt.Errorf("it answers as a web site does, %s: not an exit, or another key: %w", answer.Status, top.ErrDenied)
	case !c.ConnectionState().SupportsDatagrams.Remote:
		return fmt.Errorf("it takes no datagrams: %w", top.ErrDenied)
	}
	return nil
}

// takeQUIC answers a request that was proved, and takes its connection.
func takeQUIC(w http.ResponseWriter, c *quic.Conn) error {
	s, ok := w.(http3.HTTPStreamer)
	if !ok || !c.ConnectionState().SupportsDatagrams.Remote {
		return fmt.Errorf("a connection without datagrams: %w", top.ErrDenied)
	}
	w.Header().Set("Capsule-Protocol", "?1") // RFC 9297, section 3.4
	if s.HTTPStream().StreamID() != streamZero {
		c.CloseWithError(noError, "")
		return fmt.Errorf("not the first request: %w", top.ErrDenied)
	}
	return nil
}
