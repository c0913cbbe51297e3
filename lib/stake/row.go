package stake

import (
	"fmt"
	"maps"
	"slices"

	"top/lib/top"
	"top/lib/wire"
)

// The kinds of rows. Only ever append.
const (
	rowHead = 1 + iota
	rowValidator
	rowDelegation
	rowLeaving
	rowProposal
	rowVote
)

const rowDomain = "top/stake/row/1"

// MaxRow bounds a row.
const MaxRow = 256

func rowKey(kind byte, name func(*wire.Encoder)) top.ID {
	var e wire.Encoder
	e.Byte(kind)
	name(&e)
	return wire.Digest(rowDomain, e.Out())
}

// ValidatorRow is under which key a tree has a validator.
func ValidatorRow(id top.ValidatorID) top.ID {
	return rowKey(rowValidator, func(e *wire.Encoder) { e.Raw(id[:]) })
}

// DelegationRow is under which key a tree has a delegation.
func DelegationRow(to top.ValidatorID, who uint32) top.ID {
	return rowKey(rowDelegation, func(e *wire.Encoder) { e.Raw(to[:]); e.Uint(uint64(who)) })
}

func headRow() top.ID { return rowKey(rowHead, func(*wire.Encoder) {}) }

// LotRow is under which key a tree has a lot on its way.
func LotRow(id top.ID) top.ID {
	return rowKey(rowLeaving, func(e *wire.Encoder) { e.Raw(id[:]) })
}

// ProposalRow is under which key a tree has a proposal.
func ProposalRow(n uint64) top.ID {
	return rowKey(rowProposal, func(e *wire.Encoder) { e.Uint(n) })
}

func voteRow(n uint64, who uint32) top.ID {
	return rowKey(rowVote, func(e *wire.Encoder) { e.Uint(n); e.Uint(uint64(who)) })
}

func (b *Book) put(key top.ID, kind byte, put func(*wire.Encoder)) {
	var e wire.Encoder
	e.Byte(kind)
	put(&e)
	b.rows.PutRow(key, e.Out())
}

func (b *Book) putHead()                        { b.put(headRow(), rowHead, b.head.put) }
func (b *Book) putValidator(v *Validator)       { b.put(ValidatorRow(v.ID), rowValidator, v.put) }
func (b *Book) removeValidator(v *Validator)    { b.rows.RemoveRow(ValidatorRow(v.ID)) }
func (b *Book) putDelegation(d *Delegation)     { b.put(DelegationRow(d.To, d.Who), rowDelegation, d.put) }
func (b *Book) putLot(l *Leaving)               { b.put(LotRow(l.ID), rowLeaving, l.put) }
func (b *Book) removeLot(l *Leaving)            { b.rows.RemoveRow(LotRow(l.ID)) }
func (b *Book) putProposal(p *Proposal)         { b.put(ProposalRow(p.Number), rowProposal, p.put) }
func (b *Book) removeProposal(p *Proposal)      { b.rows.RemoveRow(ProposalRow(p.Number)) }
func (b *Book) removeVote(n uint64, who uint32) { b.rows.RemoveRow(voteRow(n, who)) }

func (b *Book) putVote(n uint64, who uint32, yes bool) {
	b.put(voteRow(n, who), rowVote, func(e *wire.Encoder) { e.Uint(n); e.Uint(uint64(who)); e.Bool(yes) })
}

func (b *Book) dropDelegation(d *Delegation) {
	delete(b.parts, part{d.To, d.Who})
	if at, ok := slices.BinarySearchFunc(b.of[d.Who], d.To, compareIDs); ok {
		b.of[d.Who] = slices.Delete(b.of[d.Who], at, at+1)
	}
	if len(b.of[d.Who]) == 0 {
		delete(b.of, d.Who)
	}
	b.rows.RemoveRow(DelegationRow(d.To, d.Who))
}

func (h *header) put(e *wire.Encoder) {
	e.Bool(h.On)
	e.Uint(h.Epoch)
	e.Uint(uint64(h.Next))
	e.Amount(h.Minted)
	e.Amount(h.Burned)
	e.Uint(h.Proposals)
}

func (h *header) get(d *wire.Decoder) {
	h.On, h.Epoch, h.Next = d.Bool(), d.Uint(), top.Height(d.Uint())
	h.Minted, h.Burned, h.Proposals = d.Amount(), d.Amount(), d.Uint()
}

func (v *Validator) put(e *wire.Encoder) {
	e.Raw(v.ID[:])
	e.Uint(uint64(v.Owner))
	e.String(v.Name)
	e.Uint(v.Commission)
	e.Uint(v.Raised)
	e.Amount(v.Tokens)
	e.Uint(v.Shares)
	e.Uint(v.Settled)
	e.Uint(v.Power)
	e.Uint(v.Seen)
	e.Bool(v.Jailed)
	e.Uint(v.JailedTill)
	e.Bool(v.Gone)
	e.Amount(v.Slashed)
}

func (v *Validator) get(d *wire.Decoder) {
	d.Fill(v.ID[:])
	v.Owner, v.Name = d.Uint32(), d.String(maxName)
	v.Commission, v.Raised, v.Tokens, v.Shares = d.Uint(), d.Uint(), d.Amount(), d.Uint()
	v.Settled, v.Power, v.Seen = d.Uint(), d.Uint(), d.Uint()
	v.Jailed, v.JailedTill, v.Gone, v.Slashed = d.Bool(), d.Uint(), d.Bool(), d.Amount()
	if v.Commission > maxCommission {
		d.Fail("a commission of %d", v.Commission)
	}
}

func (p *Delegation) put(e *wire.Encoder) {
	e.Raw(p.To[:])
	e.Uint(uint64(p.Who))
	e.Uint(p.Shares)
}

func (p *Delegation) get(d *wire.Decoder) {
	d.Fill(p.To[:])
	p.Who, p.Shares = d.Uint32(), d.Uint()
}

func (l *Leaving) put(e *wire.Encoder) {
	e.Raw(l.ID[:])
	e.Uint(uint64(l.Who))
	e.Raw(l.From[:])
	e.Raw(l.To[:])
	e.Amount(l.Amount)
	e.Uint(l.Shares)
	e.Uint(uint64(l.Answers))
	e.Uint(l.At)
}

func (l *Leaving) get(d *wire.Decoder) {
	l.ID, l.Who = d.ID(), d.Uint32()
	d.Fill(l.From[:])
	d.Fill(l.To[:])
	l.Amount, l.Shares, l.Answers, l.At = d.Amount(), d.Uint(), top.Height(d.Uint()), d.Uint()
}

func (p *Proposal) put(e *wire.Encoder) {
	e.Uint(p.Number)
	e.Uint(uint64(p.Who))
	e.Amount(p.Deposit)
	e.String(p.Name)
	e.Uint(p.Value)
	e.Uint(p.Ends)
}

func (p *Proposal) get(d *wire.Decoder) {
	p.Number, p.Who, p.Deposit = d.Uint(), d.Uint32(), d.Amount()
	p.Name, p.Value, p.Ends = d.String(maxName), d.Uint(), d.Uint()
}

// openRow decodes a row of one kind, whole.
func openRow(row []byte, kind byte, get func(*wire.Decoder)) error {
	d := wire.Decode(row, MaxRow)
	if d.Byte() != kind {
		d.Fail("a row of another kind")
	}
	get(d)
	return d.End()
}

// DecodeValidator reads a validator's row.
func DecodeValidator(row []byte) (v Validator, err error) {
	return v, openRow(row, rowValidator, v.get)
}

// DecodeDelegation reads a delegation's row.
func DecodeDelegation(row []byte) (p Delegation, err error) {
	return p, openRow(row, rowDelegation, p.get)
}

// DecodeLeaving reads the row of a lot on its way.
func DecodeLeaving(row []byte) (l Leaving, err error) {
	return l, openRow(row, rowLeaving, l.get)
}

// DecodeProposal reads a proposal's row.
func DecodeProposal(row []byte) (p Proposal, err error) {
	return p, openRow(row, rowProposal, p.get)
}

// Load takes up one row, as a snapshot has it; Ready ends it. The tree of the rows
// is the caller's to check.
func (b *Book) Load(key top.ID, row []byte) error {
	if len(row) == 0 || len(row) > MaxRow {
		return fmt.Errorf("stake: a row of %d bytes: %w", len(row), top.ErrInvalid)
	}
	var want top.ID
	var err error
	switch row[0] {
	case rowHead:
		want, err = headRow(), openRow(row, rowHead, b.head.get)
	case rowValidator:
		v := new(Validator)
		err = openRow(row, rowValidator, v.get)
		want = ValidatorRow(v.ID)
		if _, twice := b.vals[v.ID]; !twice {
			b.enterValidator(v)
		}
	case rowDelegation:
		p := new(Delegation)
		err = openRow(row, rowDelegation, p.get)
		want = DelegationRow(p.To, p.Who)
		if _, twice := b.parts[part{p.To, p.Who}]; !twice {
			b.enter(p)
		}
	case rowLeaving:
		l := new(Leaving)
		err = openRow(row, rowLeaving, l.get)
		want = LotRow(l.ID)
		if _, twice := b.leaving[l.ID]; !twice {
			b.enterLot(l)
		}
	case rowProposal:
		p := new(Proposal)
		err = openRow(row, rowProposal, p.get)
		want = ProposalRow(p.Number)
		at, twice := b.proposal(p.Number)
		if !twice {
			b.open = slices.Insert(b.open, at, p)
		}
	case rowVote:
		want, err = b.loadVote(row)
	default:
		err = fmt.Errorf("stake: a row of kind %d: %w", row[0], top.ErrInvalid)
	}
	if err == nil && want != key {
		err = fmt.Errorf("stake: a row in another's place: %w", top.ErrInvalid)
	}
	return err
}

func (b *Book) loadVote(row []byte) (key top.ID, err error) {
	var n uint64
	var who uint32
	var yes bool
	err = openRow(row, rowVote, func(d *wire.Decoder) { n, who, yes = d.Uint(), d.Uint32(), d.Bool() })
	if b.votes[n] == nil {
		b.votes[n] = map[uint32]bool{}
	}
	b.votes[n][who] = yes
	return voteRow(n, who), err
}

// Ready checks what was loaded: every row stands where another points, and the
// shares add up.
func (b *Book) Ready(accounts int) error {
	for _, p := range b.open {
		if b.votes[p.Number] == nil {
			b.votes[p.Number] = map[uint32]bool{}
		}
	}
	for n := range b.votes {
		if _, ok := b.proposal(n); !ok {
			return fmt.Errorf("stake: votes on proposal %d, which is not there: %w", n, top.ErrInvalid)
		}
	}
	for who := range b.of {
		if int(who) >= accounts {
			return fmt.Errorf("stake: account %d is not there: %w", who, top.ErrInvalid)
		}
	}
	return b.Check(accounts)
}

// Check walks the whole book and says which invariant does not hold. It is slow.
func (b *Book) Check(accounts int) error {
	shares := map[top.ValidatorID]uint64{}
	for k, d := range b.parts {
		if d.Shares == 0 {
			return fmt.Errorf("K2: a delegation of nothing")
		}
		shares[k.to] += d.Shares
	}
	for _, l := range b.leaving {
		if _, ok := b.vals[l.From]; !ok || int(l.Who) >= accounts {
			return fmt.Errorf("K3: a lot left a validator or belongs to an account that is not there")
		}
		if !l.To.IsZero() {
			shares[l.To] += l.Shares
		}
	}
	powers := uint64(0)
	for id, v := range b.vals {
		if v.Shares != shares[id] || int(v.Owner) >= accounts {
			return fmt.Errorf("K2: validator %s counts %d shares, %d are held", id, v.Shares, shares[id])
		}
		delete(shares, id)
		powers += v.Power
	}
	for id, n := range shares {
		if n > 0 {
			return fmt.Errorf("K2: shares of validator %s, which is not there", id)
		}
	}
	if b.head.On && powers == 0 {
		return fmt.Errorf("K5: the set is empty")
	}
	if locked := b.Locked(); locked > top.MaxSupply {
		return fmt.Errorf("K1: %s TOP are staked", locked)
	}
	return nil
}

// Votes is how many voted on a proposal so far.
func (b *Book) Votes(number uint64) int { return len(b.votes[number]) }

// Voted is whether an account voted on a proposal, and how.
func (b *Book) Voted(number uint64, who uint32) (yes, voted bool) {
	yes, voted = b.votes[number][who]
	return yes, voted
}

// voters is who voted on a proposal, in order.
func (b *Book) voters(number uint64) []uint32 { return slices.Sorted(maps.Keys(b.votes[number])) }
