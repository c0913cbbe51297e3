package relay

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"top/lib/home"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// compactAt is by how much a file of receipts may grow before it is cut to the
// newest of each session.
const compactAt = 4 << 20

// A receiptLog is a file of receipts that stays short.
type receiptLog struct {
	path string

	mu   sync.Mutex
	log  *home.Log
	grew int64 // bytes since it was cut
}

// openReceipts opens a log of receipts.
func openReceipts(path string) (*receiptLog, error) {
	l := &receiptLog{path: path}
	st, err := os.Stat(path)
	if err == nil && st.Size() > compactAt {
		err = compactReceipts(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.log, err = home.OpenLog(path)
	return l, err
}

// add appends receipts and syncs them.
func (l *receiptLog) add(all ...receipt.Receipt) error {
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
	if err := compactReceipts(l.path); err != nil {
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

func (l *receiptLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Close()
}

func compactReceipts(path string) error {
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

// A logEntry is one line of a session's log (docs/records.md, "log-entry").
type logEntry struct {
	Type    string        `json:"type"` // "log-entry"
	Session top.SessionID `json:"session"`
	Index   top.Count     `json:"index"`
	Amount  top.Amount    `json:"amount"`
	Entry   top.ID        `json:"entry"`
}

// entryOf is what the log of a session holds of an acknowledgement.
func entryOf(a session.Ack) top.ID { return wire.Digest("top/relay/entry/1", a.Encode()) }

// enter writes what was earned into the log of the session.
func (p *provider) enter(c *carry, earned top.Amount, a session.Ack) error {
	_, _, n := c.log.Root()
	e := logEntry{"log-entry", c.ticket.Session, top.Count(n), earned, entryOf(a)}
	if err := c.log.Append(earned, e.Entry); err != nil {
		return err
	}
	c.entries = append(c.entries, e)
	c.unsaid = true
	return nil
}

// writeLog puts a session's new entries on disk, before the state that counts
// them. After a crash what is there beyond that state is cut off.
func (p *provider) writeLog(c *carry) error {
	p.mu.Lock()
	entries := c.entries
	c.entries = nil
	_, _, count := c.log.Root()
	p.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	if c.logged == nil {
		l, err := openLog(filepath.Join(p.logs, hex.EncodeToString(c.ticket.Session[:])+".log"), count-uint64(len(entries)))
		if err != nil {
			return err
		}
		c.logged = l
	}
	for _, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write a log: %w", err)
		}
		if err := c.logged.Append(line); err != nil {
			return err
		}
	}
	return c.logged.Sync()
}

// openLog opens the log of a session that has so many entries.
func openLog(path string, entries uint64) (*home.Log, error) {
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

// sayReceipts makes the receipt of every session that earned something since its
// last, keeps it and sends it to the payer.
func (p *provider) sayReceipts() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []receipt.Receipt
	for _, c := range p.carries {
		if !c.unsaid {
			continue
		}
		c.unsaid = false
		r := receipt.Receipt{Ticket: c.ticket, Claim: c.c.Claim()}
		r.LogRoot, r.LogSum, r.LogCount = c.log.Root()
		if r.LogCount == 0 {
			continue
		}
		if err := r.Sign(p.node.Signer()); err != nil {
			return err
		}
		all = append(all, r)
		if c.sender != nil {
			c.sender.try(fReceipt, r.Encode())
		}
	}
	if len(all) == 0 {
		return nil
	}
	return p.receipts.add(all...)
}
