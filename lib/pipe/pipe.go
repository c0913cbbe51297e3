// Package pipe is the streams between our own tools: NDJSON records,
// length-prefixed frames, and the bounded queue behind an event stream.
//
//	P1  a record is one JSON object on one line of at most 1 MiB, with a "type"
//	P2  a bad line costs that line alone: the next one reads
//	P3  a frame is at most 1 MiB, and a stream that ends without its end frame
//	    is an error
//	P4  a queue never blocks who puts and never grows past its limit: what is
//	    lost is counted and said
package pipe

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"top/lib/top"
)

// MaxRecord is the longest line and the longest frame, in bytes.
const MaxRecord = 1 << 20

// A Record is one line as it was read.
type Record struct {
	Type string          // the "type" field
	Raw  json.RawMessage // the whole object; it stays valid
	Line int             // from 1
}

// Decode reads the record into v and skips fields that v does not know.
func (r Record) Decode(v any) error {
	if err := json.Unmarshal(r.Raw, v); err != nil {
		return fmt.Errorf("line %d: %s record: %v: %w", r.Line, r.Type, err, top.ErrInvalid)
	}
	return nil
}

// A Reader reads records.
type Reader struct {
	b    *bufio.Reader
	line int
}

// NewReader reads records from r.
func NewReader(r io.Reader) *Reader { return &Reader{b: bufio.NewReaderSize(r, 64<<10)} }

// Next is the next record, skipping blank lines; io.EOF ends the stream. After
// an error of kind Invalid, which names the line, the next line can be read (P2).
func (r *Reader) Next() (Record, error) {
	for {
		line, err := r.readLine()
		if err != nil {
			return Record{}, err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if !utf8.Valid(line) {
			return Record{}, fmt.Errorf("line %d: not UTF-8: %w", r.line, top.ErrInvalid)
		}
		var head struct {
			Type *string `json:"type"`
		}
		if err := json.Unmarshal(line, &head); err != nil {
			return Record{}, fmt.Errorf("line %d: not a JSON object: %v: %w", r.line, err, top.ErrInvalid)
		}
		if head.Type == nil || *head.Type == "" {
			return Record{}, fmt.Errorf("line %d: an object without a \"type\": %w", r.line, top.ErrInvalid)
		}
		return Record{Type: *head.Type, Raw: bytes.Clone(bytes.TrimSpace(line)), Line: r.line}, nil
	}
}

// readLine reads a line of at most MaxRecord bytes; a longer one is passed over
// and refused.
func (r *Reader) readLine() ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.b.ReadSlice('\n')
		if !long {
			line = append(line, part...)
		}
		if len(line) > MaxRecord+1 {
			line, long = nil, true
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read records: %w", err)
		}
		if err != nil && len(line) == 0 && !long {
			return nil, io.EOF
		}
		r.line++
		line = bytes.TrimSuffix(line, []byte("\n"))
		if long || len(line) > MaxRecord {
			return nil, fmt.Errorf("line %d: longer than 1 MiB: %w", r.line, top.ErrInvalid)
		}
		return line, nil
	}
}

// A Writer writes records. It is not safe for concurrent use.
type Writer struct{ w io.Writer }

// NewWriter writes records to w, one Write for each.
func NewWriter(w io.Writer) *Writer { return &Writer{w} }

// Write writes v, which must encode to an object, as one line.
func (w *Writer) Write(v any) error {
	line, err := Line(v)
	if err != nil {
		return err
	}
	_, err = w.w.Write(line)
	return err
}

// Line is v as one record with its newline.
func Line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write record: %w", err)
	}
	if b.Bytes()[0] != '{' {
		return nil, fmt.Errorf("write record: %T is no object: %w", v, top.ErrInvalid)
	}
	if b.Len() > MaxRecord+1 {
		return nil, fmt.Errorf("write record: %d bytes, limit 1 MiB: %w", b.Len(), top.ErrInvalid)
	}
	return b.Bytes(), nil
}

// WriteFrame writes a 4-byte big-endian length and b, which is not empty.
func WriteFrame(w io.Writer, b []byte) error {
	if len(b) == 0 || len(b) > MaxRecord {
		return fmt.Errorf("write frame: %d bytes, want 1 to 1 MiB: %w", len(b), top.ErrInvalid)
	}
	buf := make([]byte, 0, 4+len(b))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b)))
	_, err := w.Write(append(buf, b...))
	return err
}

// EndFrames writes the frame of length 0 that ends a stream.
func EndFrames(w io.Writer) error {
	_, err := w.Write(make([]byte, 4))
	return err
}

// ReadFrame reads one frame. io.EOF is the end frame; a stream that stops
// without it is io.ErrUnexpectedEOF (P3).
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 {
		return nil, io.EOF
	}
	if n > MaxRecord {
		return nil, fmt.Errorf("read frame: %d bytes, limit 1 MiB: %w", n, top.ErrInvalid)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	return b, nil
}
