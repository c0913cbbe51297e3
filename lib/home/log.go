package home

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"top/lib/top"
)

// A Log is an append-only file of lines. A line counts once its newline is on
// disk; Open cuts off a torn one (H2). Its methods may be called concurrently.
type Log struct {
	mu  sync.Mutex
	f   *os.File
	bad error // set when the file's end is not known any more
}

// OpenLog opens or makes the log at path and cuts a torn last line off.
func OpenLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := cutTorn(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		f.Close()
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return &Log{f: f}, nil
}

// cutTorn truncates f after its last newline.
func cutTorn(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	end := int64(0)
	buf := make([]byte, 4096)
	for at := size; at > 0 && end == 0; {
		n := min(at, int64(len(buf)))
		at -= n
		if _, err := f.ReadAt(buf[:n], at); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			end = at + int64(i) + 1
		}
	}
	if end == size {
		return nil
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	return f.Sync()
}

// Append writes line, which holds no newline of its own, and one newline, in
// one write. It is on disk after Sync. After a write that fell short the log
// takes nothing more, so that a torn line is never followed by another.
func (l *Log) Append(line []byte) error {
	if bytes.IndexByte(line, '\n') >= 0 {
		return fmt.Errorf("append: a newline within the line: %w", top.ErrInvalid)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return l.bad
	}
	b := append(append(make([]byte, 0, len(line)+1), line...), '\n')
	at, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if _, err = l.f.Write(b); err == nil {
		return nil
	}
	if cut := l.f.Truncate(at); cut != nil {
		l.bad = fmt.Errorf("append: the log's end is torn, restart to mend it: %w", errors.Join(err, cut))
	}
	return fmt.Errorf("append: %w", err)
}

// Sync puts all that was appended before on disk; what is appended meanwhile does
// not wait for it. After a failed sync nobody knows what is there, so the log takes
// nothing more.
func (l *Log) Sync() error {
	l.mu.Lock()
	f, bad := l.f, l.bad
	l.mu.Unlock()
	if bad != nil {
		return bad
	}
	if err := f.Sync(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.bad = fmt.Errorf("sync: %w", err)
		return l.bad
	}
	return nil
}

// Each calls fn with every whole line from the first, without its newline. The
// slice is fn's only during the call.
func (l *Log) Each(fn func(line []byte) error) error {
	l.mu.Lock()
	name := l.f.Name()
	l.mu.Unlock()
	return EachLine(name, fn)
}

// EachLine calls fn with every whole line of the file at path, while others may
// be appending to it. A file that is not there has no lines.
func EachLine(path string, fn func(line []byte) error) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", path, err)
		}
		if err := fn(line[:len(line)-1]); err != nil {
			return err
		}
	}
}

// Close closes the file; what was not synced may be lost.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
