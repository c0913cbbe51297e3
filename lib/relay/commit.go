package relay

import (
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"

	"top/lib/delivery"
	"top/lib/top"
)

// work is what the next commit writes.
type work struct {
	parcels []*parcel
	carries map[*carry]bool
	boxes   map[*box]bool
	batch   *pebble.Batch
	drops   []string // bodies to remove once it is durable
}

func (p *provider) newWork() *work {
	return &work{carries: map[*carry]bool{}, boxes: map[*box]bool{}, batch: p.db.db.NewBatch()}
}

// wake asks for a commit.
func (p *provider) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// What comes for recipients who are here waits in memory for so long, large bodies
// and small: what they acknowledge meanwhile is never written. It is not called
// stored until it is.
const (
	linger      = time.Second
	lingerSmall = 20 * time.Millisecond
)

func (m *parcel) lingers() time.Duration {
	if m.isBlob() {
		return linger
	}
	return lingerSmall
}

// commit makes durable all that was taken and does not linger, and tells the
// senders.
func (p *provider) commit() error {
	p.mu.Lock()
	w := p.work
	p.work = p.newWork()
	w.parcels, p.work.parcels = p.due(w.parcels)
	for _, m := range w.parcels {
		if c := p.carries[m.head.Channel]; c != nil {
			w.carries[c] = true
		}
	}
	blobs, err := p.fill(w)
	if len(p.work.parcels) > 0 {
		p.later.Reset(lingerSmall)
	}
	p.mu.Unlock()
	defer w.batch.Close()
	if err != nil {
		return err
	}
	var all errgroup.Group
	all.SetLimit(4)
	for _, b := range blobs {
		all.Go(func() error { return p.db.putBlob(b.blobName(), b.sealed) })
	}
	if err := all.Wait(); err != nil {
		return top.Errorf(top.Failed, "%v (free some space and start again)", err)
	}
	for c := range w.carries {
		if err := p.writeLog(c); err != nil {
			return err
		}
	}
	if !w.batch.Empty() {
		if err := w.batch.Commit(pebble.Sync); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	for _, name := range w.drops {
		p.db.dropBlob(name)
	}
	p.stored(w)
	return nil
}

// due parts parcels into those to be written now and those that linger; what is
// gone is neither.
func (p *provider) due(all []*parcel) (now, later []*parcel) {
	for _, m := range all {
		b := p.boxes[m.head.Recipient]
		switch {
		case m.gone:
		case !p.ends && p.pending <= maxPending && len(b.hands) == len(b.mailbox.Devices) && p.now().Sub(m.at) < m.lingers():
			later = append(later, m)
		default:
			now = append(now, m)
		}
	}
	return now, later
}

// fill puts into the batch what changed, and says which bodies go to files.
func (p *provider) fill(w *work) (blobs []*parcel, err error) {
	for _, m := range w.parcels {
		v, blob := m.encode()
		if blob {
			blobs = append(blobs, m)
		}
		if err := w.batch.Set(m.key(), v, nil); err != nil {
			return nil, err
		}
		if err := w.batch.Set(key('X', u64(m.head.Expiry), m.head.Recipient[:], u64(m.seq)), nil, nil); err != nil {
			return nil, err
		}
	}
	for c := range w.carries {
		st := carryState{Ticket: c.ticket.Encode(), Config: c.c.Config(), State: c.c.State(), Log: c.log.Encode()}
		p.untake(c, &st.State)
		if err := save(w.batch, key('C', c.ticket.Channel[:]), st); err != nil {
			return nil, err
		}
	}
	for b := range w.boxes {
		if err := b.save(w.batch); err != nil {
			return nil, err
		}
	}
	if len(w.boxes) > 0 {
		err = save(w.batch, key('S'), p.stats)
	}
	return blobs, err
}

// untake leaves out of a carry's state what lingers: after a crash its sender
// sends it again, unless it knows an acknowledgement that was lost here. So it is
// not handed over either: what nobody sends again would fill the window for ever.
func (p *provider) untake(c *carry, st *delivery.CarrierState) {
	for _, m := range p.work.parcels {
		if m.head.Channel != c.ticket.Channel {
			continue
		}
		for i := range st.Lines {
			l := &st.Lines[i]
			if l.Recipient != m.head.Recipient {
				continue
			}
			l.Taken = min(l.Taken, m.head.From)
			if m.head.To <= l.Passed && !c.c.Knows(m.place()) {
				l.Handed -= min(l.Handed, m.head.To-m.head.From)
			}
		}
	}
}

// stored says to the senders what is on disk now.
func (p *provider) stored(w *work) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := map[top.ID][]top.ID{}
	for _, m := range w.parcels {
		m.stored = true
		p.unload(m)
		if !m.gone {
			ids[m.head.Channel] = append(ids[m.head.Channel], m.head.ID)
		}
		if b := p.boxes[m.head.Recipient]; b != nil {
			b.settle(m)
		}
		m.wait.stored = true
	}
	for channel, all := range ids {
		if c := p.carries[channel]; c != nil {
			p.mark(c, "stored", "", all)
		}
	}
}

// unload counts a parcel out of what is not on disk.
func (p *provider) unload(m *parcel) {
	if m.pending {
		m.pending = false
		p.pending -= int64(m.size)
		p.space.Broadcast()
	}
}

// marks signs the state of envelopes.
func (p *provider) marks(c *carry, state, reason string, ids []top.ID) (all [][]byte, err error) {
	for part := range slices.Chunk(ids, maxMark) {
		m := mark{State: state, Channel: c.ticket.Channel, IDs: part, Time: uint64(p.now().UnixMilli()), Reason: reason, Node: p.node.Public()}
		if err := m.sign(p.chain, p.node.Signer()); err != nil {
			return nil, err
		}
		all = append(all, m.encode())
	}
	return all, nil
}

// mark signs the state of envelopes and sends it to their sender, if that is
// here; expired and refused are kept for when it comes back.
func (p *provider) mark(c *carry, state, reason string, ids []top.ID) {
	all, err := p.marks(c, state, reason, ids)
	if err != nil {
		p.log.Error("sign a mark", "err", err)
	}
	for _, m := range all {
		p.tell(c, fStored, m, state != "stored")
	}
}

// tell sends a mark to the sender of a channel, or keeps it.
func (p *provider) tell(c *carry, kind byte, body []byte, keep bool) {
	if c.sender != nil && c.sender.try(kind, body) || !keep {
		return
	}
	k := key('N', c.ticket.Channel[:], u64(uint64(p.now().UnixNano())))
	if err := p.work.batch.Set(k, append([]byte{kind}, body...), nil); err != nil {
		p.log.Error("keep a mark", "err", err)
	}
	p.wake()
}
