package settle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"top/lib/home"
	"top/lib/receipt"
	"top/lib/top"
)

// compactAt is by how much a file of receipts may grow before it is cut to the
// newest of each session.
const compactAt = 4 << 20

// Receipts is a file of receipts that stays short. It is safe for concurrent use.
type Receipts struct {
	path string

	mu   sync.Mutex
	log  *home.Log
	grew int64 // bytes since it was cut
}

// OpenReceipts opens a log of receipts.
func OpenReceipts(path string) (*Receipts, error) {
	l := &Receipts{path: path}
	st, err := os.Stat(path)
	if err == nil && st.Size() > compactAt {
		err = compact(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.log, err = home.OpenLog(path)
	return l, err
}

// Add appends receipts and syncs them.
func (l *Receipts) Add(all ...receipt.Receipt) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range all {
		line, err := json.Marshal(r.Record())
		if err != nil {
			return fmt.Errorf("receipt: %w", err)
		}
		if err := l.log.Append(line); err != nil {
			return err
		}
		l.grew += int64(len(line))
	}
	if err := l.log.Sync(); err != nil || l.grew < compactAt {
		return err
	}
	return l.cutLocked()
}

// Cut leaves the newest receipt of each session, as Add does by itself now and then.
func (l *Receipts) Cut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cutLocked()
}

func (l *Receipts) cutLocked() error {
	if err := compact(l.path); err != nil {
		return err
	}
	next, err := home.OpenLog(l.path)
	if err != nil {
		return err
	}
	l.log.Close()
	l.log, l.grew = next, 0
	return nil
}

// Path is where the file is.
func (l *Receipts) Path() string { return l.path }

// Close closes the file.
func (l *Receipts) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Close()
}

func compact(path string) error {
	newest, order := map[top.SessionID][]byte{}, []top.SessionID{}
	err := home.EachLine(path, func(line []byte) error {
		var rec receipt.Record
		if json.Unmarshal(line, &rec) != nil {
			return nil
		}
		if newest[rec.Session] == nil {
			order = append(order, rec.Session)
		}
		newest[rec.Session] = append([]byte{}, line...)
		return nil
	})
	if err != nil {
		return err
	}
	var all []byte
	for _, s := range order {
		all = append(append(all, newest[s]...), '\n')
	}
	return home.WriteFile(path, all, 0o600)
}

// A LogEntry is one line of a session's log (docs/records.md, "log-entry").
type LogEntry struct {
	Type    string        `json:"type"` // "log-entry"
	Session top.SessionID `json:"session"`
	Index   top.Count     `json:"index"`
	Amount  top.Amount    `json:"amount"`
	Entry   top.ID        `json:"entry"`
}

// OpenLog opens the log of a session that has so many entries: what is there beyond
// them, after a crash, is cut off.
func OpenLog(path string, entries uint64) (*home.Log, error) {
	var keep []byte
	n := uint64(0)
	err := home.EachLine(path, func(line []byte) error {
		if n++; n <= entries {
			keep = append(append(keep, line...), '\n')
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n > entries {
		if err := home.WriteFile(path, keep, 0o600); err != nil {
			return nil, err
		}
	}
	return home.OpenLog(path)
}
