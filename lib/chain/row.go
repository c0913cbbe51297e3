package chain

import (
	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

func (b blockRows) encode() []byte {
	e := wire.To(make([]byte, 0, 64+len(b.rows)*160))
	e.Uint(b.timeMs)
	putEntries(e, b.entries, true)
	e.Uint(uint64(len(b.rows)))
	for i := range b.rows {
		b.rows[i].put(e)
	}
	return e.Out()
}

func (b *blockRows) decode(v []byte, height top.Height) error {
	d := wire.Decode(v, len(v))
	b.timeMs = d.Uint()
	b.entries = getEntries(d, entry{Height: height, TimeMs: b.timeMs}, true)
	b.rows = make([]row, d.Count(maxRows, 40))
	for i := range b.rows {
		if err := b.rows[i].get(d, height, b.timeMs); err != nil {
			return err
		}
	}
	return d.End()
}

// Flags of a row and of an entry.
const (
	rowFailed byte = 1 << iota
	rowFree
	rowPaid
	rowChannel
	rowAgain
)

func (r *row) put(e *wire.Encoder) {
	e.Raw(r.ID[:])
	e.Raw(r.From[:])
	e.String(cut(r.Kind, maxName))
	o := &r.Outcome
	var f byte
	set := func(bit byte, on bool) {
		if on {
			f |= bit
		}
	}
	set(rowFailed, o.Code != 0)
	set(rowFree, o.Free)
	set(rowPaid, o.Paid > 0)
	set(rowChannel, o.Channel != nil)
	set(rowAgain, r.again)
	e.Byte(f)
	e.Uint(uint64(r.Size))
	e.Amount(o.Fee)
	if o.Code != 0 {
		e.Uint(uint64(o.Code))
		e.String(cut(r.Error, maxName))
		e.String(cut(r.Message, maxMessage))
	}
	if o.Paid > 0 {
		e.Amount(o.Paid)
	}
	if o.Channel != nil {
		e.Raw(o.Channel[:])
	}
	putEntries(e, r.entries, false)
	e.Uint(uint64(len(r.credits)))
	for _, a := range r.credits {
		e.Uint(uint64(a))
	}
}

func (r *row) get(d *wire.Decoder, height top.Height, timeMs uint64) error {
	r.ID = d.ID()
	d.Fill(r.From[:])
	r.Kind = d.String(maxName)
	f := d.Byte()
	r.Size, r.again = d.Uint32(), f&rowAgain != 0
	r.Outcome.Fee, r.Outcome.Free = d.Amount(), f&rowFree != 0
	if f&rowFailed != 0 {
		r.Outcome.Code, r.Error, r.Message = d.Uint32(), d.String(maxName), d.String(maxMessage)
		if r.Outcome.Code == 0 {
			d.Fail("a failure of code 0")
		}
	}
	if f&rowPaid != 0 {
		r.Outcome.Paid = d.Amount()
	}
	if f&rowChannel != 0 {
		id := d.ID()
		r.Outcome.Channel = &id
	}
	of := entry{Tx: r.ID, Kind: r.Kind, Channel: r.Outcome.Channel, Error: r.Error, Height: height, TimeMs: timeMs}
	r.entries = getEntries(d, of, false)
	if n := d.Count(ledger.MaxRecords, 1); n > 0 {
		r.credits = make([]uint32, n)
		for i := range r.credits {
			r.credits[i] = d.Uint32()
		}
	}
	return d.Err()
}

// putEntries writes what entries do not share with their row or block.
func putEntries(e *wire.Encoder, all []entry, kinds bool) {
	e.Uint(uint64(len(all)))
	for i := range all {
		n := &all[i]
		e.Uint(uint64(n.Account))
		if kinds {
			e.String(cut(n.Kind, maxName))
		}
		f := n.Way
		if n.Free {
			f |= 4
		}
		if n.Fee > 0 {
			f |= 8
		}
		e.Byte(f)
		e.Amount(n.Amount)
		if n.Fee > 0 {
			e.Amount(n.Fee)
		}
		e.Uint(uint64(n.Peer))
		e.Uint(uint64(n.Peers))
	}
}

func getEntries(d *wire.Decoder, of entry, kinds bool) []entry {
	n := d.Count(maxRows, 5)
	if n == 0 {
		return nil
	}
	all := make([]entry, n)
	for i := range all {
		all[i] = of
		all[i].Account = d.Uint32()
		if kinds {
			all[i].Kind = d.String(maxName)
		}
		f := d.Byte()
		all[i].Way, all[i].Free = f&3, f&4 != 0
		all[i].Amount = d.Amount()
		if f&8 != 0 {
			all[i].Fee = d.Amount()
		}
		all[i].Peer, all[i].Peers = d.Uint32(), d.Uint32()
		if int(all[i].Way) >= len(wayNames) {
			d.Fail("way %d", f&3)
		}
	}
	return all
}
