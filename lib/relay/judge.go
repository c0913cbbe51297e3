package relay

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/top"
)

// readBy tells the senders of messages that they were seen: now, or when their
// relay answers.
func (a *agent) readBy(ids []string) error {
	type at struct {
		node    top.NodeID
		channel top.ID
	}
	marks := map[at][]top.ID{}
	b := a.db.db.NewIndexedBatch()
	defer b.Close()
	for _, id := range ids {
		m, err := a.received(id)
		if err != nil {
			return err
		}
		if m.State != "new" {
			continue
		}
		m.State = "read"
		if err := save(b, key('i', u64(m.Seq)), m); err != nil {
			return err
		}
		k := at{m.Node, m.Channel}
		if n := len(marks[k]); n == 0 || marks[k][n-1] != m.Envelope {
			marks[k] = append(marks[k], m.Envelope)
		}
	}
	nodes := map[top.NodeID]bool{}
	for k, all := range marks {
		for len(all) > 0 {
			part := all[:min(len(all), maxMark)]
			all = all[len(part):]
			m, err := a.deviceMark(read, k.channel, part)
			if err != nil {
				return err
			}
			if err := b.Set(key('v', k.node[:], part[0][:]), m.encode(), nil); err != nil {
				return err
			}
		}
		nodes[k.node] = true
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	for node := range nodes {
		a.mu.Lock()
		l := a.links[node]
		a.mu.Unlock()
		if l != nil {
			a.sayMarks(l)
		}
	}
	return nil
}

// sayMarks sends a relay the marks that wait for it.
func (a *agent) sayMarks(l *link) {
	prefix := key('v', l.node[:])
	var sent [][]byte
	err := each(a.db.db, prefix, prefix, func(k, v []byte) (bool, error) {
		if err := l.send(a.ctx, fMark, v); err != nil {
			return false, err
		}
		sent = append(sent, append([]byte{}, k...))
		return true, nil
	})
	if err != nil {
		a.log.Debug("marks", "err", err)
	}
	for _, k := range sent {
		a.db.db.Delete(k, pebble.NoSync)
	}
}

// received is a message of the inbox or the requests, by its id. When several
// people used one id it is the one that came first, and in the inbox before the
// requests: nobody puts himself before another.
func (a *agent) received(id string) (*inMessage, error) {
	var at []byte
	prefix := key('n', []byte(id), []byte{0})
	err := each(a.db.db, prefix, prefix, func(_, v []byte) (bool, error) {
		if len(v) == 9 && (at == nil || bytes.Compare(v, at) < 0) { // 'i' is before 'r'
			at = bytes.Clone(v)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	m := new(inMessage)
	if at != nil {
		ok, err := load(a.db.db, at, m)
		if err != nil || ok {
			return m, err
		}
	}
	return nil, top.Errorf(top.NotFound, "no message %q was received", id)
}

// judge allows or blocks somebody. What waits from who is allowed comes into the
// inbox; of who is blocked nothing is kept.
func (a *agent) judge(who top.Address, state string) error {
	a.intake.Lock()
	defer a.intake.Unlock()
	b := a.db.db.NewIndexedBatch()
	defer b.Close()
	if err := b.Set(key('a', who[:]), []byte(state), nil); err != nil {
		return err
	}
	waits := false
	err := each(a.db.db, key('r'), key('r'), func(k, v []byte) (bool, error) {
		var m inMessage
		if err := unpack(bytes.Clone(v), &m); err != nil || m.From != who {
			return err == nil, err
		}
		if err := b.Delete(append([]byte{}, k...), nil); err != nil {
			return false, err
		}
		m.State = "new"
		isFile := m.File != [16]byte{}
		if state == blocked {
			if isFile {
				return true, b.Delete(key('f', m.File[:]), nil)
			}
			return true, nil
		}
		if !isFile {
			return true, a.enter(b, &m)
		}
		waits = true // its chunks come now, and it enters when they are here
		var f inFile
		if ok, err := load(b, key('f', m.File[:]), &f); err != nil || !ok {
			return err == nil, err
		}
		f.Message.State = "new"
		return true, save(b, key('f', m.File[:]), &f)
	})
	if err == nil {
		err = a.saveSeqs(b)
	}
	if err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return err
	}
	clear(a.files)
	if waits {
		a.mu.Lock()
		for _, l := range a.links {
			l.bounce()
		}
		a.mu.Unlock()
	}
	a.changed()
	return nil
}
