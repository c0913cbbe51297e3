package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/envelope"
	"top/lib/top"
)

// An inFile is a file of which chunks arrive.
type inFile struct {
	Message inMessage
	Key     [32]byte
	Chunks  uint32
	Got     []byte // a bit for each chunk
	Have    uint32

	mu   sync.Mutex // Got and Have, between who reads chunks and who keeps what was read
	f    *os.File
	sum  hash.Hash // of the chunks up to next, while they come in order
	next uint32
}

// keep syncs what was written, and keeps what is there.
func (f *inFile) keep(b *pebble.Batch) error {
	f.mu.Lock()
	file := f.f
	raw, err := json.Marshal(f)
	f.mu.Unlock()
	if err != nil || file == nil {
		return err // finished meanwhile
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	return b.Set(key('f', f.Message.File[:]), raw, nil)
}

func (f *inFile) has(i uint32) bool { return f.Got[i/8]&(1<<(i%8)) != 0 }

// chunk writes a chunk of a file to its place.
func (in *intake) chunk(e *envelope.Envelope) (fresh bool, err error) {
	id, index, _ := envelope.IsChunk(e.Sealed)
	f, err := in.file(id)
	if err != nil {
		return false, err
	}
	if f == nil || f.Message.State == "request" {
		return false, errLater // its manifest comes by another relay, or its sender is a stranger
	}
	if index >= f.Chunks {
		return false, top.Errorf(top.Invalid, "chunk %d of %d", index, f.Chunks)
	}
	data, name, k, err := envelope.OpenChunk(f.Key, e.Sealed)
	if err != nil {
		return false, err
	}
	if name != e.Header.ID {
		return false, top.Errorf(top.Denied, "the header speaks of another chunk")
	}
	if err := e.Header.Check(k, e.MAC); err != nil {
		return false, err
	}
	if want := min(f.Message.Size-uint64(index)*envelope.ChunkData, envelope.ChunkData); uint64(len(data)) != want {
		return false, top.Errorf(top.Invalid, "chunk %d has %d bytes, not %d", index, len(data), want)
	}
	if f.has(index) {
		return false, nil
	}
	return true, in.write(f, index, data)
}

// file is a file that arrives, from memory or disk; nil when it is not known.
func (in *intake) file(id [16]byte) (*inFile, error) {
	if f := in.a.files[id]; f != nil {
		return f, nil
	}
	f := new(inFile)
	ok, err := load(in.b, key('f', id[:]), f)
	if err != nil || !ok {
		return nil, err
	}
	in.a.files[id] = f
	return f, nil
}

func (in *intake) write(f *inFile, index uint32, data []byte) error {
	if f.f == nil {
		if err := in.a.db.room(); err != nil {
			return err
		}
		file, err := os.OpenFile(in.a.partPath(f.Message.File), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("write a file: %w", err)
		}
		f.mu.Lock()
		f.f = file
		f.mu.Unlock()
		if f.Have == 0 {
			f.sum = sha256.New()
		}
	}
	if _, err := f.f.WriteAt(data, int64(index)*envelope.ChunkData); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	if f.sum != nil && index == f.next {
		f.sum.Write(data)
		f.next++
	} else {
		f.sum = nil
	}
	f.mu.Lock()
	f.Got[index/8] |= 1 << (index % 8)
	f.Have++
	f.mu.Unlock()
	in.files[f] = true
	if f.Have == f.Chunks {
		in.done = append(in.done, f)
	}
	return nil
}

func (a *agent) partPath(id [16]byte) string { return a.path("parts", hex.EncodeToString(id[:])) }

func (a *agent) filePath(id [16]byte) string { return a.path("files", hex.EncodeToString(id[:])) }

// finish checks a file that is whole, and puts its message into the inbox.
func (in *intake) finish(f *inFile) error {
	sum := f.sum
	if sum == nil {
		sum = sha256.New()
		if _, err := f.f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read a file: %w", err)
		}
		if _, err := io.Copy(sum, f.f); err != nil {
			return fmt.Errorf("read a file: %w", err)
		}
	}
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	f.mu.Lock()
	f.f = nil
	f.mu.Unlock()
	id := f.Message.File
	delete(in.a.files, id)
	if top.ID(sum.Sum(nil)) != f.Message.SHA {
		in.a.log.Warn("a file is not what its sender said", "from", f.Message.From, "id", f.Message.ID)
		os.Remove(in.a.partPath(id))
		return in.b.Delete(key('f', id[:]), nil)
	}
	if err := os.Rename(in.a.partPath(id), in.a.filePath(id)); err != nil {
		return fmt.Errorf("write a file: %w", err)
	}
	f.Message.Received = in.a.now().UnixMilli()
	if err := in.a.enter(in.b, &f.Message); err != nil {
		return err
	}
	return in.b.Delete(key('f', id[:]), nil)
}
