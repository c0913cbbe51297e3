package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"top/lib/pipe"
	"top/lib/top"
	"top/lib/wire"
)

// A Verdict is what a stream of transactions is told of one of them: at first
// whether it was taken, and when it was, later what became of it.
type Verdict struct {
	Seq    uint64     // of the transaction within its stream, from 0
	Err    error      // why it was not taken; ErrBusy says when to try again
	Height top.Height // of the block that holds it; 0 when it was just taken
	Code   uint32     // the exit code of what became of it; 0 is done
}

// The forms of a verdict (docs/wire.md, "Stream of transactions").
const (
	verdictTaken byte = iota
	verdictRefused
	verdictFinal
)

const (
	maxVerdict = 600
	maxReason  = 512
)

// Append appends the canonical form to b.
func (v Verdict) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, v.Seq)
	e := wire.To(b)
	switch {
	case v.Err != nil:
		e.Byte(verdictRefused)
		e.String(string(top.KindOf(v.Err)))
		e.Uint(uint64(top.RetryAfter(v.Err).Milliseconds()))
		msg := v.Err.Error()
		e.String(msg[:min(len(msg), maxReason)])
	case v.Height > 0:
		e.Byte(verdictFinal)
		e.Uint(uint64(v.Height))
		e.Uint(uint64(v.Code))
	default:
		e.Byte(verdictTaken)
	}
	return e.Out()
}

// DecodeVerdict reads one verdict from the front of b, and gives the rest.
func DecodeVerdict(b []byte) (v Verdict, rest []byte, err error) {
	d := wire.Decode(b, len(b))
	v.Seq = d.Uint()
	switch what := d.Byte(); what {
	case verdictTaken:
	case verdictRefused:
		kind, ms, msg := top.Kind(d.String(32)), d.Uint(), d.String(maxReason)
		if kind == "" || ms > uint64(time.Hour.Milliseconds()) {
			d.Fail("refused as %q for %d ms", kind, ms)
		}
		v.Err = &top.Error{Kind: kind, Message: msg, RetryAfter: time.Duration(ms) * time.Millisecond}
	case verdictFinal:
		v.Height, v.Code = top.Height(d.Uint()), d.Uint32()
		if v.Height == 0 {
			d.Fail("final in no block")
		}
	default:
		d.Fail("verdict %d", what)
	}
	if err := d.Err(); err != nil {
		return Verdict{}, nil, fmt.Errorf("verdict: %w", err)
	}
	return v, d.Rest(), nil
}

// A TxStream hands many transactions to a node and is told what becomes of each.
// One goroutine may send while another reads.
type TxStream struct {
	w    *bufio.Writer
	end  io.Closer
	in   *bufio.Reader
	body io.Closer
	left []byte // of the last frame, or of a verdict that two frames share
}

// TxStream begins a stream of transactions, which ends with ctx.
func (c *Chain) TxStream(ctx context.Context) (*TxStream, error) {
	r, w := io.Pipe()
	body, err := c.c.Duplex(ctx, "/v1/txs/stream", r)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &TxStream{w: bufio.NewWriterSize(w, 64<<10), end: w, in: bufio.NewReaderSize(body, 64<<10), body: body}, nil
}

// Send sends a signed transaction; Flush makes it leave.
func (s *TxStream) Send(raw []byte) error { return pipe.WriteFrame(s.w, raw) }

// Flush sends what is buffered.
func (s *TxStream) Flush() error { return s.w.Flush() }

// End says that no more will be sent.
func (s *TxStream) End() error {
	if err := pipe.EndFrames(s.w); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	return s.end.Close()
}

// Next is the verdicts that came, at least one; io.EOF after the last.
func (s *TxStream) Next() (all []Verdict, err error) {
	for len(all) == 0 {
		frame, err := pipe.ReadFrame(s.in)
		if err != nil {
			return nil, err
		}
		s.left = append(s.left, frame...)
		for len(s.left) > 0 {
			v, rest, err := DecodeVerdict(s.left)
			if err != nil && len(s.left) < maxVerdict {
				break // the next frame has the rest
			}
			if err != nil {
				return nil, err
			}
			all, s.left = append(all, v), rest
		}
		s.left = bytes.Clone(s.left)
	}
	return all, nil
}

// Close ends the stream at once.
func (s *TxStream) Close() error {
	s.end.Close()
	return s.body.Close()
}
