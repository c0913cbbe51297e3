package carry

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"top/lib/top"
)

// wssConn is a TLS connection that began as a websocket (RFC 6455, section 4).
// After the 101 the two ends speak frames of their own: nobody between them can
// tell, and masks are for proxies that no TLS has between.
type wssConn struct {
	c   *tls.Conn
	in  *bufio.Reader
	out *outbox

	closing sync.Once
	end     func() // after it has closed
	run     sync.WaitGroup
}

func newWSS(c *tls.Conn, in *bufio.Reader, pad bool, end func()) *wssConn {
	w := &wssConn{c: c, in: in, out: newOutbox(recordSize, pad), end: end}
	w.run.Go(func() {
		w.out.run(func(parcel []byte) (bool, error) { _, err := c.Write(parcel); return true, err })
		w.out.close()
		c.SetReadDeadline(time.Unix(1, 0)) // Receive ends too
	})
	return w
}

func (w *wssConn) Kind() Kind                 { return WSS }
func (w *wssConn) MTU() int                   { return recordSize - frameHead }
func (w *wssConn) Stats() Stats               { return w.out.counts.stats() }
func (w *wssConn) LocalAddr() netip.AddrPort  { return addrPort(w.c.LocalAddr()) }
func (w *wssConn) RemoteAddr() netip.AddrPort { return addrPort(w.c.RemoteAddr()) }
func (w *wssConn) Send(bufs [][]byte) error   { return w.out.put(bufs) }

func (w *wssConn) Close() error {
	w.closing.Do(func() {
		w.out.close()
		w.c.NetConn().SetDeadline(time.Now().Add(closeWait)) // a write that hangs, and the close_notify
		w.run.Wait()
		w.c.Close()
		w.end()
	})
	return nil
}

func (w *wssConn) Receive(bufs [][]byte, sizes []int) (n int, err error) {
	for n < len(bufs) {
		if n > 0 && !w.waiting() {
			break
		}
		got, ok, err := w.read(bufs[n])
		if err != nil && n == 0 {
			return 0, fmt.Errorf("receive: %w", err)
		} else if err != nil {
			break // the next call says so
		}
		if ok {
			sizes[n] = got
			n++
		}
	}
	return n, nil
}

// waiting says whether a whole frame has been read from the line.
func (w *wssConn) waiting() bool {
	if w.in.Buffered() < frameHead {
		return false
	}
	head, err := w.in.Peek(frameHead)
	return err == nil && w.in.Buffered() >= frameHead+int(binary.BigEndian.Uint16(head)&maxFrame)
}

// read takes one frame; ok says that it was a datagram that fits.
func (w *wssConn) read(buf []byte) (n int, ok bool, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(w.in, head[:]); err != nil {
		return 0, false, err
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if n = size & maxFrame; size&filler != 0 || n > len(buf) {
		if size&filler == 0 {
			w.out.counts.tooLong.Add(1)
		}
		_, err := w.in.Discard(n)
		return 0, false, err
	}
	if _, err := io.ReadFull(w.in, buf[:n]); err != nil {
		return 0, false, err
	}
	w.out.counts.received.Add(1)
	w.out.counts.receivedBytes.Add(uint64(n))
	return n, true, nil
}

// dialWSS connects, proves and turns the connection over.
func dialWSS(ctx context.Context, cfg DialConfig, conf *tls.Config) (Conn, error) {
	dial := cfg.DialTCP
	if dial == nil {
		d := &net.Dialer{Control: cfg.Control}
		dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	raw, err := dial(ctx, cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	boundUnsent(raw)
	// A browser offers HTTP/1.1 alone for a websocket.
	conf.NextProtos = []string{"http/1.1"}
	c := tls.Client(raw, conf)
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	in, err := upgrade(ctx, c, cfg)
	if stopped := stop(); err == nil && !stopped {
		err = fmt.Errorf("%v: %w", context.Cause(ctx), top.ErrTimeout)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return newWSS(c, in, cfg.Pad, func() {}), nil
}

// upgrade asks for a websocket as a browser does, with the proof in a cookie.
func upgrade(ctx context.Context, c *tls.Conn, cfg DialConfig) (*bufio.Reader, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, tlsError(err)
	}
	r, err := request(ctx, cfg, c.ConnectionState())
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", key)
	if err := r.Write(c); err != nil {
		return nil, fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	in := bufio.NewReaderSize(c, 4*recordSize)
	answer, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, top.ErrOffline)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Sec-WebSocket-Accept") != acceptOf(key) {
		return nil, fmt.Errorf("it answers as a web site does, %s: not an exit, or another key: %w", answer.Status, top.ErrDenied)
	}
	return in, nil
}

// acceptOf answers a websocket's key (RFC 6455, section 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// asksUpgrade says whether a request asks for a websocket.
func asksUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && r.Header.Get("Sec-WebSocket-Key") != ""
}

// takeWSS answers a request that was proved, and takes its connection.
func takeWSS(w http.ResponseWriter, r *http.Request) (*tls.Conn, *bufio.Reader, error) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take the connection: %v: %w", err, top.ErrFailed)
	}
	t, ok := c.(*tls.Conn)
	if !ok {
		c.Close()
		return nil, nil, fmt.Errorf("a connection without TLS: %w", top.ErrDenied)
	}
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
	if err := rw.Flush(); err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("answer: %v: %w", err, top.ErrOffline)
	}
	// What came with the request stays in front of what the connection has.
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	in := bufio.NewReaderSize(io.MultiReader(strings.NewReader(string(early)), t), 4*recordSize)
	boundUnsent(t.NetConn())
	return t, in, nil
}
