package relay

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"

	"top/lib/home"
	"top/lib/top"
)

// lowDisk is the free space below which nothing more is taken.
const lowDisk = 64 << 20

// A store keeps what a daemon must not forget: small values in a Pebble database,
// bodies of more than blobSize as files beside it. A batch is durable whole or not
// at all.
type store struct {
	db   *pebble.DB
	dir  string
	dead chan error // the database cannot go on
}

// blobSize is the size from which a body is a file of its own: an LSM tree would
// write it many times over.
const blobSize = 32 << 10

// quiet is Pebble's log. A fatal error ends the daemon, not the process.
type quiet struct{ dead chan error }

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (q quiet) Fatalf(format string, args ...any) {
	q.dies(fmt.Errorf(format, args...))
	select {} // Pebble must not go on
}

func (q quiet) dies(err error) {
	select {
	case q.dead <- top.Errorf(top.Failed, "the database stopped: %v (is the disk full? free some space and start again)", err):
	default:
	}
}

func openStore(dir string) (*store, error) {
	blobs := filepath.Join(dir, "bodies")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", blobs, err)
	}
	dead := make(chan error, 1)
	log := quiet{dead}
	cache := pebble.NewCache(32 << 20)
	defer cache.Unref()
	opened := make(chan error, 1)
	var db *pebble.DB
	go func() {
		var err error
		opts := &pebble.Options{
			Cache: cache, MemTableSize: 16 << 20, MaxOpenFiles: 256, Logger: log, EventListener: &pebble.EventListener{BackgroundError: log.dies},
			FormatMajorVersion: pebble.FormatNewest, CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
		}
		for i := range opts.Levels {
			opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most questions are for what is not there
			opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		}
		db, err = pebble.Open(filepath.Join(dir, "db"), opts)
		opened <- err
	}()
	select {
	case err := <-dead: // it would try to flush for ever
		return nil, err
	case err := <-opened:
		if err != nil {
			return nil, fmt.Errorf("open %s: %w (is another daemon of this home running?)", dir, err)
		}
	}
	return &store{db: db, dir: dir, dead: dead}, nil
}

func (s *store) close() error { return s.db.Close() }

// room says why nothing more should be written.
func (s *store) room() error {
	if free, err := home.Free(s.dir); err == nil && free < lowDisk {
		return &top.Error{Kind: top.Busy, Message: "the disk is full", RetryAfter: 10e9}
	}
	return nil
}

// get reads a value; nil when there is none.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, done, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer done.Close()
	return append([]byte{}, v...), nil
}

// load reads a kept or JSON value; false when there is none.
func load(r pebble.Reader, key []byte, v any) (bool, error) {
	b, err := get(r, key)
	if err != nil || b == nil {
		return false, err
	}
	if k, ok := v.(kept); ok {
		err = unpack(b, k)
	} else {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key[:1], err)
	}
	return true, nil
}

// save puts a kept or JSON value into a batch.
func save(b *pebble.Batch, key []byte, v any) error {
	if k, ok := v.(kept); ok {
		return b.Set(key, pack(k), nil)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %q: %w", key[:1], err)
	}
	return b.Set(key, raw, nil)
}

// each calls fn with every key from lower on that has the prefix, until fn says
// no. The slices are fn's only during the call.
func each(r pebble.Reader, prefix, lower []byte, fn func(key, value []byte) (bool, error)) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: after(prefix)})
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		more, err := fn(it.Key(), it.Value())
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// after is the first key that has not the prefix.
func after(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// key joins parts after a letter that says what it is a key of.
func key(of byte, parts ...[]byte) []byte {
	b := []byte{of}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// putBlob writes a body to a file of its own and syncs it.
func (s *store) putBlob(name string, body []byte) error {
	path := filepath.Join(s.dir, "bodies", name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write a body: %w", err)
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("write a body: %w", err)
	}
	return nil
}

func (s *store) blob(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.dir, "bodies", name))
}

func (s *store) dropBlob(name string) { os.Remove(filepath.Join(s.dir, "bodies", name)) }
