package relay

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"

	"top/lib/receipt"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/top"
	"top/lib/wire"
)

// entryOf is what the log of a session holds of an acknowledgement.
func entryOf(a session.Ack) top.ID { return wire.Digest("top/relay/entry/1", a.Encode()) }

// enter writes what was earned into the log of the session.
func (p *provider) enter(c *carry, earned top.Amount, a session.Ack) error {
	_, _, n := c.log.Root()
	e := settle.LogEntry{Type: "log-entry", Session: c.ticket.Session, Index: top.Count(n), Amount: earned, Entry: entryOf(a)}
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
		l, err := settle.OpenLog(filepath.Join(p.logs, hex.EncodeToString(c.ticket.Session[:])+".log"), count-uint64(len(entries)))
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
	return p.receipts.Add(all...)
}
