package pool

import (
	"context"
	"fmt"
	"slices"
	"time"

	"top/lib/ledger"
	"top/lib/top"
)

// A known bundle is one that was checked, or is being.
type known struct {
	id      top.ID
	raw     []byte
	bundle  ledger.Bundle
	err     error
	done    chan struct{} // closed once checked
	claimed bool          // somebody checks it, or did
	own     bool          // made here
	since   time.Time     // when it was entered
	owes    bool          // its bytes are in Pool.owed
	handed  bool          // consensus has it
	told    func(error)   // who brought it, of the verdict
}

func (k *known) checked() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// remember enters a bundle. The caller holds the lock.
func (p *Pool) remember(k *known) {
	k.since = time.Now()
	p.known[k.id] = k
	p.fifo = append(p.fifo, k.id)
	p.knownBytes += len(k.raw)
	for i := 0; p.knownBytes > maxKnown && i < len(p.fifo); {
		old := p.known[p.fifo[i]]
		if old != nil && (!old.checked() || old == k) {
			i++
			continue
		}
		p.fifo = slices.Delete(p.fifo, i, i+1)
		if old != nil {
			p.remove(old.id)
		}
	}
}

// remove forgets a bundle. The caller holds the lock.
func (p *Pool) remove(id top.ID) {
	k := p.known[id]
	if k == nil {
		return
	}
	delete(p.known, id)
	p.knownBytes -= len(k.raw)
	if k.own {
		p.inFlight--
	}
	if k.owes {
		for _, s := range k.bundle {
			p.repay(s.From, len(s.Raw))
		}
	}
	if len(p.fifo) > 64 && len(p.fifo) > 2*len(p.known) {
		p.fifo = slices.DeleteFunc(p.fifo, func(id top.ID) bool { return p.known[id] == nil })
	}
}

func (p *Pool) forget(k *known) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(k.id)
}

// own enters a bundle that was made here of what was verified here.
func (p *Pool) own(raw []byte, b ledger.Bundle) *known {
	k := &known{id: ledger.BundleID(raw), raw: raw, bundle: b, done: make(chan struct{}), own: true, claimed: true}
	close(k.done)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remember(k)
	p.inFlight++
	return k
}

// Check says whether a bundle may wait for a block: nil when it was checked and is
// good.
func (p *Pool) Check(raw []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[ledger.BundleID(raw)]
	if k == nil || !k.checked() {
		return fmt.Errorf("the bundle was not checked: %w", top.ErrBusy)
	}
	return k.err
}

// Knows says whether a bundle was checked here, or is being.
func (p *Pool) Knows(id top.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[id] != nil
}

// Bundle is a bundle that was checked and is good; nil when it is not known.
func (p *Pool) Bundle(id top.ID) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[id]; k != nil && k.handed {
		return k.raw
	}
	return nil
}

// Bundles is the names of all bundles that wait for a block.
func (p *Pool) Bundles() (ids []top.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.fifo {
		if k := p.known[id]; k != nil && k.handed {
			ids = append(ids, id)
		}
	}
	return ids
}

// Late is the names of the bundles made here that are not final after so long.
func (p *Pool) Late(after time.Duration) (ids []top.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range p.fifo {
		if k := p.known[id]; k != nil && k.own && k.handed && time.Since(k.since) > after {
			ids = append(ids, id)
		}
	}
	return ids
}

// Offer takes a peer's bundle to be checked, and handed to consensus when it turns
// out good. judged is told what any node finds wrong with it; it is not told when
// there is no room.
func (p *Pool) Offer(id top.ID, raw []byte, judged func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[id] != nil || p.jobBytes+len(raw) > maxQueued {
		return
	}
	k := &known{id: id, raw: raw, done: make(chan struct{}), told: judged}
	p.remember(k)
	p.jobs = append(p.jobs, k)
	p.jobBytes += len(raw)
	wake(p.jobKick)
}

// checkJobs checks the bundles of peers, as many together as pay, and hands the good
// ones on.
func (p *Pool) checkJobs(ctx context.Context) {
	for {
		all := p.claim()
		if len(all) == 0 {
			select {
			case <-p.jobKick:
				continue
			case <-ctx.Done():
				return
			}
		}
		p.judge(all)
		for _, k := range all {
			if k.told != nil {
				k.told(k.err)
			}
			if k.err != nil || !p.affords(k) {
				continue
			}
			if err := p.give(k); err != nil {
				p.cfg.Log.Debug("bundle of a peer not taken", "bundle", k.id.Short(), "err", err)
			}
		}
	}
}

// claim takes bundles from the queue, about as many as are best checked together.
func (p *Pool) claim() (all []*known) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := 0
	for len(p.jobs) > 0 && size < bundleBytes/2 {
		k := p.jobs[0]
		p.jobs = p.jobs[1:]
		p.jobBytes -= len(k.raw)
		if !k.claimed { // else a proposal came first
			k.claimed = true
			all, size = append(all, k), size+len(k.raw)
		}
	}
	if len(p.jobs) > 0 {
		wake(p.jobKick)
	}
	return all
}

// give hands a good bundle to consensus.
func (p *Pool) give(k *known) error {
	if err := p.cfg.Hand(k.raw); err != nil {
		return err
	}
	p.mu.Lock()
	k.handed = true
	p.mu.Unlock()
	p.cfg.Spread(k.id, k.own)
	return nil
}

// judge reads and verifies bundles that the caller claimed: all their signatures
// together, and when one is wrong, bundle by bundle (Q1).
func (p *Pool) judge(all []*known) {
	var signed []ledger.Signed
	errs := make([]error, len(all))
	for i, k := range all {
		if k.bundle, errs[i] = ledger.DecodeBundle(k.raw, p.cfg.Chain); errs[i] == nil {
			signed = append(signed, k.bundle...)
		}
	}
	if ledger.VerifyBatch(signed, &p.ring) != nil {
		for i, k := range all {
			for n, err := range ledger.VerifyBatch(k.bundle, &p.ring) {
				if err != nil && errs[i] == nil {
					errs[i] = fmt.Errorf("bundle: transaction %d: %w", n, err)
				}
			}
		}
	}
	for i, k := range all {
		if k.err = errs[i]; k.err != nil {
			k.bundle = nil
			p.cfg.Log.Warn("bundle refused", "bundle", k.id.Short(), "err", k.err)
		}
		close(k.done)
	}
}

// affords says whether a good bundle of a peer may wait for a block here, and books
// what it owes. In a proposal it is good all the same (Q5).
func (p *Pool) affords(k *known) bool {
	if err := p.afford(k.bundle); err != nil {
		p.cfg.Log.Warn("bundle not passed on", "bundle", k.id.Short(), "err", err)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[k.id] == k {
		k.owes = true
		for _, s := range k.bundle {
			p.owed[s.From] += len(s.Raw)
		}
	}
	return true
}

// afford is why a peer's bundle may not wait: most of it could not pay (Q5).
func (p *Pool) afford(b ledger.Bundle) error {
	sizes := make([]int, len(b))
	p.mu.Lock()
	more := make(map[uint32]int, len(b))
	for i, s := range b {
		more[s.From] += len(s.Raw)
		sizes[i] = p.owed[s.From] + more[s.From]
	}
	p.mu.Unlock()
	errs, err := p.cfg.Admit(b, sizes)
	if err != nil {
		return err
	}
	bad, why := 0, error(nil)
	for _, e := range errs {
		if e != nil {
			bad, why = bad+1, e
		}
	}
	if 2*bad > len(b) {
		return fmt.Errorf("%d of %d transactions of the bundle cannot be paid: %w", bad, len(b), why)
	}
	return nil
}

// Proposed says what is wrong with the bundles of a proposal without any state; nil
// is nothing (Q1).
func (p *Pool) Proposed(raws [][]byte) error {
	all := make([]*known, len(raws))
	var mine []*known
	p.mu.Lock()
	for i, raw := range raws {
		id := ledger.BundleID(raw)
		k := p.known[id]
		if k == nil {
			k = &known{id: id, raw: raw, done: make(chan struct{})}
			p.remember(k)
		}
		if !k.claimed {
			k.claimed = true
			mine = append(mine, k)
		}
		all[i] = k
	}
	p.mu.Unlock()
	p.judge(mine)
	for i, k := range all {
		if <-k.done; k.err != nil {
			return fmt.Errorf("bundle %d: %w", i, k.err)
		}
	}
	return nil
}

// Open is the bundle in a block that was agreed upon, and its name.
func (p *Pool) Open(raw []byte) (top.ID, ledger.Bundle, error) {
	id := ledger.BundleID(raw)
	p.mu.Lock()
	k := p.known[id]
	p.mu.Unlock()
	if k != nil && k.checked() && k.err == nil {
		return id, k.bundle, nil
	}
	b, err := ledger.DecodeBundle(raw, p.cfg.Chain)
	return id, b, err
}
