package chain

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/pipe"
	"top/lib/pool"
	"top/lib/sock"
	"top/lib/top"
)

const (
	streamBatch = 512     // transactions that are handed in together, at most
	streamOwes  = 1 << 20 // verdicts that wait to be read, in bytes, before no more is taken
	streamNew   = 512     // transactions of a new stream of which nothing was said yet; as many more as were taken
	streamWrong = 16      // wrong signatures, after which a stream ends
)

func (n *Node) stream(c *sock.Call) error {
	return streamTxs(c, n.genesis.Chain, func(_ context.Context, all []pool.Item, w pool.Watcher) { n.app.pool.Add(all, w) })
}

// streamTxs takes transactions as frames and answers with frames of verdicts: of each
// transaction once whether it was taken, and once it is final. It ends after the
// caller's end frame, when all that was taken is final. What is final already is
// refused, since its nonce was used: GET /v1/txs/{id} knows. add is given them in turn.
func streamTxs(c *sock.Call, chain top.ChainID, add func(context.Context, []pool.Item, pool.Watcher)) error {
	out, err := c.Duplex("application/octet-stream")
	if err != nil {
		return err
	}
	w := newVerdicts()
	defer w.close()
	ctx, cancel := context.WithCancelCause(c.Context())
	defer cancel(nil)
	w.end = cancel
	go func() {
		if err := takeFrames(ctx, c.Body, chain, w, add); err != nil {
			cancel(err)
		}
	}()
	for {
		b, over := w.take()
		for len(b) > 0 {
			part := b
			if len(part) > pipe.MaxRecord/2 {
				part = b[:pipe.MaxRecord/2]
			}
			if err := pipe.WriteFrame(out, part); err != nil {
				return err
			}
			b = b[len(part):]
		}
		if over {
			return errors.Join(pipe.EndFrames(out), out.Flush())
		}
		if err := out.Flush(); err != nil {
			return err
		}
		select {
		case <-w.kick:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// takeFrames reads transactions until the end frame.
func takeFrames(ctx context.Context, r io.Reader, chain top.ChainID, w *verdicts, add func(context.Context, []pool.Item, pool.Watcher)) error {
	in := bufio.NewReaderSize(r, 256<<10)
	for seq := uint64(0); ; {
		if err := w.room(ctx, seq); err != nil {
			return err
		}
		var items []pool.Item
		for len(items) == 0 || len(items) < streamBatch && more(in) {
			raw, err := pipe.ReadFrame(in)
			if errors.Is(err, io.EOF) {
				add(ctx, items, w)
				w.last(seq)
				return nil
			}
			if err != nil {
				return err
			}
			s, err := ledger.Read(raw)
			if err == nil && s.Chain != chain {
				err = fmt.Errorf("the transaction is for chain %s, this is %s: %w", s.Chain, chain, top.ErrDenied)
			}
			if err != nil {
				w.Taken(seq, err)
			} else {
				items = append(items, pool.Item{Signed: s, Seq: seq})
			}
			seq++
		}
		add(ctx, items, w)
	}
}

// more says whether a whole frame waits in the buffer.
func more(in *bufio.Reader) bool {
	if in.Buffered() < 4 {
		return false
	}
	head, err := in.Peek(4)
	return err == nil && in.Buffered() >= 4+int(binary.BigEndian.Uint32(head))
}

// verdicts is the pool.Watcher of one stream.
type verdicts struct {
	kick chan struct{}

	mu     sync.Mutex
	out    []byte
	left   int64         // transactions of which more is to be said; those told before last was known count below zero
	ended  bool          // the caller sends no more
	closed bool          // nobody reads any more
	read   chan struct{} // closed and replaced when verdicts were read, or came
	said   uint64        // transactions of which it was said whether they were taken
	taken  uint64        // and that were
	wrong  int           // that were signed wrongly
	end    func(error)   // ends the stream
}

func newVerdicts() *verdicts {
	return &verdicts{kick: make(chan struct{}, 1), read: make(chan struct{}), end: func(error) {}}
}

// Taken is for pool.
func (v *verdicts) Taken(seq uint64, err error) {
	v.tell(api.Verdict{Seq: seq, Err: err}, err != nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.said++
	if err == nil {
		v.taken++
	}
	// Whoever signs does not sign wrongly; whoever only says so would fill the room of
	// those whom he names.
	if errors.Is(err, ledger.ErrSignature) {
		if v.wrong++; v.wrong == streamWrong {
			v.end(top.Errorf(top.Denied, "%d transactions were not signed by whom they name: no more is taken on this stream", streamWrong))
		}
	}
	v.moved()
}

// moved wakes who waits for room. The caller holds the lock.
func (v *verdicts) moved() {
	close(v.read)
	v.read = make(chan struct{})
}

// Final is for pool.
func (v *verdicts) Final(seq uint64, height top.Height, code uint32) {
	v.tell(api.Verdict{Seq: seq, Height: height, Code: code}, true)
}

func (v *verdicts) tell(r api.Verdict, done bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.out = r.Append(v.out)
	if done {
		v.left--
	}
	v.wake()
}

func (v *verdicts) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// last says how many transactions the stream had.
func (v *verdicts) last(n uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left, v.ended = v.left+int64(n), true
	v.wake()
}

// take is what there is to say, and whether that was all.
func (v *verdicts) take() (b []byte, over bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b, v.out = v.out, nil
	v.moved()
	return b, v.ended && v.left == 0
}

// room waits until a caller who sends and does not read has read, and until there are
// answers to what a caller sent of whom little is known.
func (v *verdicts) room(ctx context.Context, sent uint64) error {
	for {
		v.mu.Lock()
		full, read := len(v.out) > streamOwes || sent > v.said+v.taken+streamNew, v.read
		v.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-read:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *verdicts) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed, v.out = true, nil
}
