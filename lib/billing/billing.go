// Package billing makes a bill of receipts: what each service, peer and session
// cost, and what the chain will have paid for each channel. Anyone can make it
// again, offline, from the same receipts.
//
// It reads no chain and no prices: what is on the bill is what payer and node
// signed. What is not signed for is not on it.
//
//	B1  only a receipt that verifies is on the bill
//	B2  the order of receipts does not matter, and one that is repeated or older
//	    than another of its session changes nothing
//	B3  a channel's amount is the best of its claims, cut to its cap when the cap
//	    is known: what the chain pays when that claim is shown
//	B4  the rows of a channel add up to its amount, to the last nano
//	B5  a row's units at its price are its amount and what is left unpaid of it
//	B6  a split never gives more than there is: each share is rounded down, and
//	    what rounding leaves stays with who pays
//	B7  the same receipts give the same bill, in the same order
//	B8  units that no consumer acknowledged are marked on their row, and what they
//	    cost is told apart in the total
//
// A channel carries many sessions, and a receipt tells the whole of its own only.
// The rest of what its claim proves belongs to sessions whose receipts are on
// the bill as well, or that are not known: that part is a row of its own,
// "unattributed", which a later receipt makes smaller. A session that is over
// keeps its last receipt's row, however far the channel goes on.
//
// A node that logs more for its sessions than the channel pays (over the cap, or
// in the moment between a voucher and the first tick on it) is not believed the
// rest: the sessions are served in the order of their vouchers, and what is
// missing for the last ones is "unpaid", beside the amount and not in it.
package billing

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
)

// channelKey names a channel by who promised: a stranger who signs receipts for
// somebody else's channel, as its payer, bills a channel of his own.
type channelKey struct {
	chain   top.ChainID
	channel top.ID
	payer   top.Address
}

type sessionKey struct {
	channelKey
	node    top.NodeID
	session top.SessionID
}

type capKey struct {
	chain   top.ChainID
	channel top.ID
}

// best is the claim of a channel that pays most.
type best struct {
	claim session.Claim
	owed  top.Amount
	node  top.NodeID // whose receipt showed it
}

// A Bill gathers receipts. It is not safe for concurrent use.
type Bill struct {
	sessions map[sessionKey]receipt.Receipt // the newest of each
	channels map[channelKey]best
	caps     map[capKey]top.Amount
}

// New is an empty bill.
func New() *Bill {
	return &Bill{
		sessions: make(map[sessionKey]receipt.Receipt),
		channels: make(map[channelKey]best),
		caps:     make(map[capKey]top.Amount),
	}
}

// Add verifies a receipt and puts it on the bill (B1, B2). A receipt that is
// refused changes nothing. The bill keeps the receipt's slices.
func (b *Bill) Add(r receipt.Receipt) error {
	ch := channelKey{r.Ticket.Chain, r.Ticket.Channel, r.Ticket.Payer}
	key := sessionKey{ch, r.Ticket.Node, r.Ticket.Session}
	old, known := b.sessions[key]
	if known && old.ID() == r.ID() {
		return nil
	}
	if err := r.Verify(); err != nil {
		return err
	}
	owed, err := r.Claim.Owed()
	if err != nil {
		return err
	}
	if !known || r.Compare(old) > 0 {
		b.sessions[key] = r
	}
	c := best{r.Claim, owed, r.Ticket.Node}
	if was, ok := b.channels[ch]; !ok || c.compare(was) > 0 {
		b.channels[ch] = c
	}
	return nil
}

// compare orders the claims of a channel by what they bring; the rest only makes
// the order total. A voucher's number does not come first: between a voucher and
// the first tick on it, the claim before it may be worth more, and its provider
// shows that one.
func (c best) compare(o best) int {
	return cmp.Or(
		cmp.Compare(c.owed, o.owed),
		cmp.Compare(c.claim.Voucher.Seq, o.claim.Voucher.Seq),
		bytes.Compare(c.claim.Encode(), o.claim.Encode()),
		bytes.Compare(c.node[:], o.node[:]),
	)
}

// Limit says what a channel locks, as the chain tells: it pays no more. A later
// call replaces an earlier one.
func (b *Bill) Limit(chain top.ChainID, channel top.ID, limit top.Amount) {
	b.caps[capKey{chain, channel}] = limit
}

// Receipts are the newest receipt of every session, in the order of the rows.
func (b *Bill) Receipts() []receipt.Receipt {
	var all []receipt.Receipt
	for _, row := range b.Rows() {
		if row.Kind == Session {
			all = append(all, b.sessions[sessionKey{channelKey{row.Chain, row.Channel, row.Payer}, row.Node, row.Session}])
		}
	}
	return all
}

// A Channel is what one payer's channel comes to.
type Channel struct {
	Chain        top.ChainID
	Channel      top.ID
	Payer        top.Address
	Node         top.NodeID    // whose receipt showed the best claim
	Claim        session.Claim // the best: what to show the chain
	Owed         top.Amount    // what it proves
	Capped       bool          // the cap is known
	Cap          top.Amount
	Amount       top.Amount // what the chain will have paid: Owed, at most the cap
	Unattributed top.Amount // the part of Amount for which there is no receipt
	Unpaid       top.Amount // what its sessions logged beyond Amount; at most top.MaxSupply
	Sessions     int        // with a receipt on the bill
}

// Channels are the channels, ordered by chain, channel and payer.
func (b *Bill) Channels() []Channel {
	all := make([]Channel, 0, len(b.channels))
	for _, part := range b.parts() {
		all = append(all, part.channel)
	}
	return all
}

// part is one channel with the rows that add up to it.
type part struct {
	channel Channel
	rows    []Row
}

// parts works the bill out, channel by channel, in order.
func (b *Bill) parts() []part {
	of := make(map[channelKey][]receipt.Receipt, len(b.channels))
	for k, r := range b.sessions {
		of[k.channelKey] = append(of[k.channelKey], r)
	}
	parts := make([]part, 0, len(b.channels))
	for k, c := range b.channels {
		ch := Channel{
			Chain: k.chain, Channel: k.channel, Payer: k.payer, Node: c.node, Claim: c.claim,
			Owed: c.owed, Amount: c.owed, Sessions: len(of[k]),
		}
		if ch.Cap, ch.Capped = b.caps[capKey{k.chain, k.channel}]; ch.Capped {
			ch.Amount = min(ch.Owed, ch.Cap)
		}
		rows := share(&ch, of[k])
		parts = append(parts, part{ch, rows})
	}
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(
			bytes.Compare(a.channel.Chain[:], b.channel.Chain[:]),
			bytes.Compare(a.channel.Channel[:], b.channel.Channel[:]),
			bytes.Compare(a.channel.Payer[:], b.channel.Payer[:]),
		)
	})
	return parts
}

// share gives a channel's amount to its sessions, in the order of their vouchers,
// and what is left to the row without a receipt (B4, B5).
func share(ch *Channel, receipts []receipt.Receipt) []Row {
	slices.SortFunc(receipts, func(a, b receipt.Receipt) int {
		return cmp.Or(
			cmp.Compare(a.Claim.Voucher.Seq, b.Claim.Voucher.Seq),
			bytes.Compare(a.Ticket.Node[:], b.Ticket.Node[:]),
			bytes.Compare(a.Ticket.Session[:], b.Ticket.Session[:]),
		)
	})
	left := ch.Amount
	rows := make([]Row, 0, len(receipts)+1)
	for _, r := range receipts {
		t := &r.Ticket
		amount := min(r.LogSum, left)
		left -= amount
		unpaid := r.LogSum - amount
		rows = append(rows, Row{
			Kind: Session, Chain: t.Chain, Channel: t.Channel, Payer: t.Payer, Node: t.Node, Session: t.Session,
			Service: t.Service, Unit: t.Unit, Units: r.Units(), Price: t.Price, Amount: amount, Unpaid: unpaid, Unverified: r.Unverified,
		})
		if sum, ok := ch.Unpaid.Add(unpaid); ok && sum <= top.MaxSupply {
			ch.Unpaid = sum
		} else {
			ch.Unpaid = top.MaxSupply
		}
	}
	if ch.Unattributed = left; left > 0 {
		rows = append(rows, Row{
			Kind: Unattributed, Chain: ch.Chain, Channel: ch.Channel, Payer: ch.Payer, Node: ch.Node, Amount: left,
		})
	}
	return rows
}

// total adds amounts that may belong to more chains than one.
func total(sum, more top.Amount) (top.Amount, error) {
	sum, ok := sum.Add(more)
	if !ok || sum > top.MaxSupply {
		return 0, fmt.Errorf("bill: the sum is more than there can ever be: %w", top.ErrInvalid)
	}
	return sum, nil
}
