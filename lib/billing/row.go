package billing

import (
	"bytes"
	"cmp"
	"slices"

	"top/lib/top"
)

// Kind says what a row stands for.
type Kind string

// The kinds of rows.
const (
	Session      Kind = "session"      // one session, by its newest receipt
	Unattributed Kind = "unattributed" // what a channel pays beyond its known sessions
)

// A Row is one line of a bill.
type Row struct {
	Kind    Kind
	Chain   top.ChainID
	Channel top.ID
	Payer   top.Address
	Node    top.NodeID
	Session top.SessionID // zero when unattributed, as all down to Price
	Service string
	Unit    string
	Units   uint64     // logged by the node
	Price   top.Amount // of a unit
	Amount  top.Amount // what the channel pays of it
	Unpaid  top.Amount // what it does not: Units × Price is Amount + Unpaid
	// Unverified is how many of the units the consumer did not acknowledge: the node
	// counted them alone.
	Unverified uint64
}

// Rows are the rows of the bill, ordered by service, node, payer, chain, channel
// and session; the unattributed ones come last.
func (b *Bill) Rows() []Row {
	var rows []Row
	for _, p := range b.parts() {
		rows = append(rows, p.rows...)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(
			cmp.Compare(a.Kind, b.Kind), // "session" < "unattributed"
			cmp.Compare(a.Service, b.Service),
			bytes.Compare(a.Node[:], b.Node[:]),
			bytes.Compare(a.Payer[:], b.Payer[:]),
			bytes.Compare(a.Chain[:], b.Chain[:]),
			bytes.Compare(a.Channel[:], b.Channel[:]),
			bytes.Compare(a.Session[:], b.Session[:]),
		)
	})
	return rows
}

// Side is where a row's money goes, seen from somebody.
type Side string

// The sides.
const (
	Neither Side = ""       // between others
	Spent   Side = "spent"  // paid by us
	Earned  Side = "earned" // paid to us
	Both    Side = "both"   // paid by us to us
)

// A Viewpoint is whose bill it is: the accounts that pay and the nodes that earn.
type Viewpoint struct {
	Accounts []top.Address
	Nodes    []top.NodeID
}

// Side is where the row's money goes, seen from v.
func (v Viewpoint) Side(r Row) Side { return v.side(r.Payer, r.Node) }

func (v Viewpoint) side(payer top.Address, node top.NodeID) Side {
	pays, earns := slices.Contains(v.Accounts, payer), slices.Contains(v.Nodes, node)
	switch {
	case pays && earns:
		return Both
	case pays:
		return Spent
	case earns:
		return Earned
	}
	return Neither
}

// Peer is the other end of a row, seen from v: the payer when v earns, else the
// node.
func (v Viewpoint) Peer(r Row) string {
	if v.Side(r) == Earned {
		return r.Payer.String()
	}
	return r.Node.String()
}

// unverified is how much of a row's amount is for unverified units.
func (r Row) unverified() top.Amount {
	sum, ok := r.Price.Mul(r.Unverified)
	if !ok {
		return r.Amount
	}
	return min(sum, r.Amount)
}

// Totals are the sums of a bill, nano.
type Totals struct {
	Amount       top.Amount // of all channels
	Unattributed top.Amount // of it, without a receipt
	Spent        top.Amount // of it, by the viewpoint's accounts
	Earned       top.Amount // of it, by the viewpoint's nodes; what is on both sides is in both
	Unverified   top.Amount // of it, for units that the consumer did not acknowledge
	Sessions     int
	Channels     int
}

// Totals adds the bill up. It refuses, with kind Invalid, a sum above what there
// can ever be: then some receipts are for chains that never were.
func (b *Bill) Totals(v Viewpoint) (t Totals, err error) {
	for _, p := range b.parts() {
		ch := &p.channel
		if t.Amount, err = total(t.Amount, ch.Amount); err != nil {
			return Totals{}, err
		}
		t.Unattributed += ch.Unattributed // at most t.Amount, as the two below
		side := v.side(ch.Payer, ch.Node)
		if side == Spent || side == Both {
			t.Spent += ch.Amount
		}
		for _, r := range p.rows {
			if slices.Contains(v.Nodes, r.Node) {
				t.Earned += r.Amount
			}
			t.Unverified += r.unverified()
		}
		t.Sessions += ch.Sessions
		t.Channels++
	}
	return t, nil
}

// A Service is what one service came to.
type Service struct {
	Service  string
	Unit     string
	Units    top.Count // at most 2^64-1
	Amount   top.Amount
	Unpaid   top.Amount // at most top.MaxSupply
	Sessions int

	Unverified top.Count // units of it that no consumer acknowledged; at most 2^64-1
}

// Services sums rows by service and unit, in order; what is unattributed has the
// empty name and comes last. It refuses sums above what there can ever be.
func Services(rows []Row) ([]Service, error) {
	type key struct{ service, unit string }
	sums := make(map[key]Service)
	for _, r := range rows {
		k := key{r.Service, r.Unit}
		s := sums[k]
		s.Service, s.Unit = r.Service, r.Unit
		var err error
		if s.Amount, err = total(s.Amount, r.Amount); err != nil {
			return nil, err
		}
		if s.Unpaid, err = total(s.Unpaid, r.Unpaid); err != nil {
			s.Unpaid = top.MaxSupply
		}
		if s.Units += top.Count(r.Units); s.Units < top.Count(r.Units) {
			s.Units = 1<<64 - 1
		}
		if s.Unverified += top.Count(r.Unverified); s.Unverified < top.Count(r.Unverified) {
			s.Unverified = 1<<64 - 1
		}
		if r.Kind == Session {
			s.Sessions++
		}
		sums[k] = s
	}
	all := make([]Service, 0, len(sums))
	for _, s := range sums {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Service) int {
		return cmp.Or(
			-cmp.Compare(min(len(a.Service), 1), min(len(b.Service), 1)),
			cmp.Compare(a.Service, b.Service),
			cmp.Compare(a.Unit, b.Unit),
		)
	})
	return all, nil
}
