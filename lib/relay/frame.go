package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"top/lib/top"
	"top/lib/wire"
)

// Protocol is what an agent and a relay speak over the mesh: frames of a 4-byte
// big-endian length, a byte that says what it is, and the body (docs/wire.md,
// "Relay protocol").
const Protocol = "/top/relay/1"

// maxFrame is the longest frame, in bytes: the largest sealed part, its header and
// room to spare.
const maxFrame = 1 << 20

// What a frame is. Those of agents are lower case, those of relays upper case.
const (
	fAuth    = 'a' // a device shows its certificate and signs the challenge
	fMailbox = 'm' // a mailbox record to be held
	fPrekeys = 'p' // one-time prekeys to be handed out
	fLookup  = 'l' // asks for a mailbox record
	fPrekey  = 'k' // asks for a prekey of a device
	fTicket  = 't' // begins or resumes a session on a channel
	fVoucher = 'v' // the next voucher of a channel
	fSend    = 'e' // an envelope to be held and handed over
	fAck     = 'd' // a recipient's acknowledgement
	fMark    = 'r' // a recipient's mark: read or refused
	fSkip    = 's' // a recipient cannot open it: hand it over no more

	fChallenge = 'C' // 32 bytes to be signed, when the stream opens
	fOK        = 'O' // the answer to a request, or an error
	fStored    = 'S' // a relay's mark: stored, expired or refused
	fAcked     = 'D' // an acknowledgement, for the sender
	fMarked    = 'R' // a recipient's mark, for the sender
	fHand      = 'E' // an envelope for this device
	fReceipt   = 'I' // the newest receipt of a session
	fFault     = 'X' // what the sender of a channel did wrong, or cannot do now
)

// A stream is one connection between an agent and a relay. Frames go out in the
// order in which they were sent, and a slow reader holds up only who sends to it.
type stream struct {
	conn net.Conn
	r    *bufio.Reader
	out  chan [2][]byte // a frame, in two parts
	done chan struct{}
	once sync.Once
	err  error

	written atomic.Int64 // bytes that the other end, or the line, took
}

// step is how much is written at a time, so that a slow line shows progress.
const step = 64 << 10

// newStream takes a connection over. Its writer ends with close.
func newStream(conn net.Conn) *stream {
	s := &stream{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), out: make(chan [2][]byte, 64), done: make(chan struct{})}
	go s.write()
	return s
}

// close ends the stream; the first reason stays.
func (s *stream) close(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.done)
		s.conn.Close()
	})
}

func (s *stream) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *stream) write() {
	w := bufio.NewWriterSize(s.conn, 64<<10)
	for {
		select {
		case b := <-s.out:
			_, err := w.Write(b[0])
			for body := b[1]; err == nil && len(body) > 0; {
				var n int
				n, err = w.Write(body[:min(step, len(body))])
				body = body[n:]
				s.written.Add(int64(n))
			}
			if err != nil {
				s.close(err)
				return
			}
			if len(s.out) > 0 {
				continue
			}
			if err := w.Flush(); err != nil {
				s.close(err)
				return
			}
		case <-s.done:
			return
		}
	}
}

// frame is the bytes of a frame.
func frame(kind byte, parts ...[]byte) []byte {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	b := make([]byte, 4, 4+n)
	binary.BigEndian.PutUint32(b, uint32(n))
	b = append(b, kind)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// send queues a frame; it waits while the other end is slow.
func (s *stream) send(ctx context.Context, kind byte, parts ...[]byte) error {
	return s.put(ctx, frame(kind, parts...))
}

// sendBody queues a frame that ends in a long body, which nobody may change any
// more.
func (s *stream) sendBody(ctx context.Context, kind byte, head, body []byte) error {
	b := frame(kind, head)
	binary.BigEndian.PutUint32(b, uint32(1+len(head)+len(body)))
	return s.queue(ctx, [2][]byte{b, body})
}

// put queues the bytes of a frame.
func (s *stream) put(ctx context.Context, b []byte) error { return s.queue(ctx, [2][]byte{b, nil}) }

func (s *stream) queue(ctx context.Context, b [2][]byte) error {
	select {
	case s.out <- b:
		return nil
	case <-s.done:
		return top.Errorf(top.Offline, "the connection ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try queues a frame unless the other end is slow.
func (s *stream) try(kind byte, parts ...[]byte) bool {
	select {
	case s.out <- [2][]byte{frame(kind, parts...), nil}:
		return true
	default:
		return false
	}
}

// next is the next frame; it stays valid.
func (s *stream) next() (kind byte, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes, at most %d: %w", n, maxFrame, top.ErrInvalid)
	}
	kind, err = s.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n-1)
	_, err = io.ReadFull(s.r, body)
	return kind, body, err
}

// more says whether another frame has begun to arrive.
func (s *stream) more() bool { return s.r.Buffered() >= 5 }

// An answer is what a relay says to a request: its number, an error of a kind or
// nothing, and a body.
type answer struct {
	ref  uint32
	err  error
	body []byte
}

func (a answer) encode() []byte {
	var e wire.Encoder
	e.Uint(uint64(a.ref))
	kind, text := "", ""
	if a.err != nil {
		kind, text = string(top.KindOf(a.err)), a.err.Error()
		if len(text) > 512 {
			text = text[:512]
		}
	}
	e.String(kind)
	e.String(text)
	e.Raw(a.body)
	return e.Out()
}

func (a *answer) decode(b []byte) error {
	d := wire.Decode(b, maxFrame)
	a.ref = d.Uint32()
	kind, text := d.String(16), d.String(512)
	a.body = d.Rest()
	if err := d.Err(); err != nil {
		return err
	}
	if kind != "" {
		a.err = top.Errorf(top.Kind(kind), "%s", printable(text))
	}
	return nil
}

// printable keeps a stranger's text from steering a terminal or a log.
func printable(s string) string {
	b := []rune(s)
	for i, r := range b {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			b[i] = '?'
		}
	}
	return string(b)
}
