package chain

import (
	"top/lib/ledger"
	"top/lib/top"
)

// history calls each with the entries of an account after since, oldest first,
// until each says false.
func (x *index) history(account uint32, address top.Address, since uint64, each func(seq uint64, n entry) (bool, error)) error {
	x.mu.RLock()
	runs := x.runs
	var tail []posting
	for _, p := range x.posts {
		if p.account == account {
			tail = append(tail, p)
		}
	}
	x.mu.RUnlock()
	r := reading{x: x, account: account, address: address}
	seq := uint64(0)
	show := func(all []posting) (bool, error) {
		for _, p := range all {
			if seq++; seq <= since {
				r.skip(p)
				continue
			}
			n, err := r.entry(p)
			if err != nil {
				return false, err
			}
			if more, err := each(seq, n); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	}
	for run := range runs {
		all, err := x.ofRun(run, account)
		if err != nil {
			return err
		}
		if more, err := show(all); err != nil || !more {
			return err
		}
	}
	_, err := show(tail)
	return err
}

// A reading goes through the entries of one account.
type reading struct {
	x       *index
	account uint32
	address top.Address
	height  top.Height // of block
	have    bool
	block   blockRows
	prev    posting
	nth     int // of the entries of one place
}

func (r *reading) skip(p posting) {
	if p == r.prev {
		r.nth++
	} else {
		r.prev, r.nth = p, 0
	}
}

func (r *reading) entry(p posting) (n entry, err error) {
	r.skip(p)
	if !r.have || r.height != p.height {
		if r.block, err = r.x.block(p.height); err != nil {
			return n, err
		}
		r.have, r.height = true, p.height
	}
	list := r.block.entries
	var w *row
	if p.at != ofBlock {
		if int(p.at) >= len(r.block.rows) {
			return n, top.Errorf(top.Failed, "the index of block %d is torn", p.height)
		}
		w = &r.block.rows[p.at]
		list = w.entries
	}
	nth := r.nth
	for _, e := range list {
		if e.Account == r.account {
			if nth == 0 {
				return e, nil
			}
			nth--
		}
	}
	if w == nil {
		return n, top.Errorf(top.Failed, "the index of block %d is torn", p.height)
	}
	return r.credit(p, w, nth)
}

// credit is what the nth record of a batch that pays the account gave it.
func (r *reading) credit(p posting, w *row, nth int) (n entry, err error) {
	n = entry{Account: r.account, Tx: w.ID, Kind: w.Kind, Way: wayIn, Height: p.height, TimeMs: r.block.timeMs, Peers: 1}
	raw, err := r.x.raw(p.height, p.at)
	if err != nil {
		return n, err
	}
	t, err := ledger.Decode(raw)
	if err != nil {
		return n, err
	}
	b, ok := t.Body.(*ledger.Batch)
	if !ok {
		return n, top.Errorf(top.Failed, "the index of block %d is torn", p.height)
	}
	n.Peer = t.From
	fresh := uint32(len(b.New))
	for _, c := range b.Records {
		if c.Index < fresh && b.New[c.Index] == r.address || c.Index >= fresh && c.Index-fresh == r.account {
			if nth == 0 {
				n.Amount = c.Amount
				return n, nil
			}
			nth--
		}
	}
	return n, top.Errorf(top.Failed, "the index of block %d is torn", p.height)
}
