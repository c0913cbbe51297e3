package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"

	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// A Channel holds a payer's money for one provider. It is gone from the state
// once it is closed or reclaimed; its id never comes back.
type Channel struct {
	ID           top.ID
	Payer        uint32
	Provider     uint32
	Cap          top.Amount
	Paid         top.Amount
	Seq          uint64     // of the newest voucher claimed
	Opened       top.Height //
	Expiry       uint64     // unix seconds
	ExpiryHeight top.Height
	Closing      bool // the payer asked to close
}

func (c *Channel) encode() []byte {
	var e wire.Encoder
	e.Uint(uint64(c.Payer))
	e.Uint(uint64(c.Provider))
	e.Amount(c.Cap)
	e.Amount(c.Paid)
	e.Uint(c.Seq)
	e.Uint(uint64(c.Opened))
	e.Uint(c.Expiry)
	e.Uint(uint64(c.ExpiryHeight))
	e.Bool(c.Closing)
	return e.Out()
}

func (c *Channel) get(d *wire.Decoder) {
	c.Payer, c.Provider = d.Uint32(), d.Uint32()
	c.Cap, c.Paid, c.Seq = d.Amount(), d.Amount(), d.Uint()
	c.Opened, c.Expiry, c.ExpiryHeight = top.Height(d.Uint()), d.Uint(), top.Height(d.Uint())
	c.Closing = d.Bool()
}

// ChannelID is the id of the channel that a payer opens with a nonce.
func ChannelID(chain top.ChainID, payer top.Address, nonce uint64) top.ID {
	return wire.Digest("top/channel/1", chain[:], payer[:], binary.BigEndian.AppendUint64(nil, nonce))
}

// Over says whether the deadline of a channel has passed: by time and by
// blocks, whichever is later.
func (c Channel) Over(height top.Height, unixMilli uint64) bool {
	return unixMilli/1000 >= c.Expiry && height >= c.ExpiryHeight
}

func (s *State) open(t *Tx, b *Open) Result {
	if int(b.Provider) >= len(s.hot) {
		return fail(fmt.Errorf("open: account %d: there is none: %w", b.Provider, top.ErrNotFound))
	}
	if b.Provider == t.From {
		return fail(fmt.Errorf("open: a channel to oneself: %w", top.ErrDenied))
	}
	if b.Expiry < s.now/1000+s.params.DeadlineSec {
		return fail(fmt.Errorf("open: expires in less than the deadline of %d s: %w", s.params.DeadlineSec, top.ErrDenied))
	}
	if s.hot[t.From].balance < b.Cap {
		return fail(s.short(t.From, b.Cap))
	}
	c := &Channel{
		ID: ChannelID(t.Chain, t.Key, t.Nonce), Payer: t.From, Provider: b.Provider, Cap: b.Cap,
		Opened: s.height, Expiry: b.Expiry, ExpiryHeight: s.height + top.Height(s.params.DeadlineBlocks),
	}
	s.hot[t.From].balance -= b.Cap
	s.cold[t.From].channels++
	s.addChannel(c)
	r := s.done(Move{t.From, Out, b.Cap, b.Provider})
	r.Channel = &c.ID
	return r
}

// addChannel enters a channel in the trie and in the lists of both accounts.
func (s *State) addChannel(c *Channel) {
	s.channel[c.ID] = c
	s.putChannel(c)
	for _, i := range []uint32{c.Payer, c.Provider} {
		at, _ := slices.BinarySearchFunc(s.ofAccount[i], c.ID, compareIDs)
		s.ofAccount[i] = slices.Insert(s.ofAccount[i], at, c.ID)
	}
}

func compareIDs(a, b top.ID) int { return slices.Compare(a[:], b[:]) }

func (s *State) putChannel(c *Channel) {
	s.channels.put(c.ID, leafHash(channelDomain, c.ID, c.encode()))
}

// dropChannel ends a channel and gives what is left back to its payer.
func (s *State) dropChannel(c *Channel) (back top.Amount) {
	back = c.Cap - c.Paid
	s.hot[c.Payer].balance += back
	s.cold[c.Payer].channels--
	s.touch(c.Payer)
	delete(s.channel, c.ID)
	s.channels.remove(c.ID)
	for _, i := range []uint32{c.Payer, c.Provider} {
		if at, ok := slices.BinarySearchFunc(s.ofAccount[i], c.ID, compareIDs); ok {
			s.ofAccount[i] = slices.Delete(s.ofAccount[i], at, at+1)
		}
		if len(s.ofAccount[i]) == 0 {
			delete(s.ofAccount, i)
		}
	}
	return back
}

// mayClaim says whether t is signed for the channel's provider: by its account's
// key or its node key.
func (s *State) mayClaim(t *Tx, c *Channel) error {
	p := &s.cold[c.Provider]
	if t.From != c.Provider || (t.Key != p.key && (p.node.IsZero() || t.Key != p.node)) {
		return fmt.Errorf("channel %s pays account %d, and neither its key nor its node's signed: %w", c.ID.Short(), c.Provider, top.ErrDenied)
	}
	if t.Nonce != 0 {
		return fmt.Errorf("a claim has nonce 0, not %d: %w", t.Nonce, top.ErrInvalid)
	}
	if s.now/1000 >= t.Expiry {
		return fmt.Errorf("the transaction expired: %w", top.ErrDenied)
	}
	return nil
}

// worth is what a claim would add to what a channel has paid if its payer signed it
// and its ticks are what they say: nothing when it was shown before (L4).
func (s *State) worth(c *Channel, claim *session.Claim) (top.Amount, error) {
	v := &claim.Voucher
	if v.Chain != s.params.Chain || v.Channel != c.ID {
		return 0, fmt.Errorf("the voucher is for channel %s of chain %s: %w", v.Channel.Short(), v.Chain, top.ErrDenied)
	}
	if c.Over(s.height, s.now) {
		return 0, fmt.Errorf("channel %s is past its deadline: %w", c.ID.Short(), top.ErrDenied)
	}
	if v.Seq < c.Seq {
		return 0, fmt.Errorf("voucher %d is older than voucher %d, claimed before: %w", v.Seq, c.Seq, top.ErrDenied)
	}
	owed, err := claim.Sum()
	if err != nil {
		return 0, err
	}
	return max(min(owed, c.Cap), c.Paid) - c.Paid, nil
}

// credit is what a claim adds to what a channel has paid.
func (s *State) credit(c *Channel, claim *session.Claim, p *proven) (top.Amount, error) {
	add, err := s.worth(c, claim)
	if err != nil {
		return 0, err
	}
	if key := s.cold[c.Payer].key; !p.by(key) {
		if err := claim.Ticked(); err != nil {
			return 0, err
		}
		if err := claim.Verify(key, s.now/1000); err != nil {
			return 0, err
		}
		p.note(key, claim)
	}
	return add, nil
}

// A proven remembers that a claim was found to be signed by a payer and ticked
// rightly, which costs a thousand hashes: a node admits it, and later applies it.
// What recipients acknowledged is judged by time as well, and not remembered.
type proven struct {
	payer top.Address
	ok    bool
}

func (p *proven) by(payer top.Address) bool { return p != nil && p.ok && p.payer == payer }

func (p *proven) note(payer top.Address, claim *session.Claim) {
	if p != nil && len(claim.Acks) == 0 {
		*p = proven{payer, true}
	}
}

// An Unproven is claims that a state says nothing against and that nobody has proved:
// Prove does it beside the state, all of them together.
type Unproven struct {
	claims []*Claim
	payers []top.Address
	good   []bool
}

// Unproven is the claims among transactions that are worth to be proved. The rest,
// and those with acknowledgements, are judged one by one.
func (s *State) Unproven(all []Signed) (u Unproven) {
	for _, t := range all {
		b, ok := t.Body.(*Claim)
		if !ok || len(b.Claim.Acks) > 0 || b.proven.ok || s.stateless(t.Tx) != nil {
			continue
		}
		c := s.channel[b.Claim.Voucher.Channel]
		if c == nil || s.mayClaim(t.Tx, c) != nil {
			continue
		}
		if add, err := s.worth(c, &b.Claim); err != nil || add <= s.price(len(t.Raw)) {
			continue
		}
		u.claims, u.payers = append(u.claims, b), append(u.payers, s.cold[c.Payer].key)
	}
	return u
}

// None says that there is nothing to prove.
func (u *Unproven) None() bool { return len(u.claims) == 0 }

// Note keeps what Prove found, for Admit and Apply. Nobody may read the transactions
// meanwhile.
func (u *Unproven) Note() {
	for i, b := range u.claims {
		if u.good[i] {
			b.proven.note(u.payers[i], &b.Claim)
		}
	}
}

// claimable is the channel of a claim and what it would credit, which must be
// more than its fee: the fee comes out of it, so a claim costs nobody anything
// that it does not bring (L5).
func (s *State) claimable(t *Tx, b *Claim, size int) (*Channel, top.Amount, error) {
	c, ok := s.channel[b.Claim.Voucher.Channel]
	if !ok {
		return nil, 0, fmt.Errorf("channel %s: there is none, or it is closed: %w", b.Claim.Voucher.Channel.Short(), top.ErrNotFound)
	}
	if err := s.mayClaim(t, c); err != nil {
		return nil, 0, err
	}
	add, err := s.credit(c, &b.Claim, &b.proven)
	if err != nil {
		return nil, 0, err
	}
	if fee := s.price(size); add <= fee {
		return nil, 0, fmt.Errorf("the claim adds %s TOP and its fee is %s: nothing to gain: %w", add, fee, top.ErrDenied)
	}
	return c, add, nil
}

func (s *State) applyClaim(t *Tx, b *Claim, size int) Result {
	c, add, err := s.claimable(t, b, size)
	if err != nil {
		return fail(err)
	}
	c.Paid += add
	c.Seq = b.Claim.Voucher.Seq
	s.putChannel(c)
	r := s.earn(c, add, s.price(size))
	return r
}

// earn credits the provider and burns the fee out of it.
func (s *State) earn(c *Channel, add, fee top.Amount) Result {
	s.burned += fee
	s.hot[c.Provider].balance += add - fee
	s.hotPages.touch(c.Provider)
	id := c.ID
	r := Result{Fee: fee, Channel: &id, Paid: add}
	if add > 0 {
		r.Moves = []Move{{c.Provider, In, add, c.Payer}}
	}
	return r
}

// closable is what a provider's close would credit first.
func (s *State) closable(t *Tx, b *Close, c *Channel) (top.Amount, error) {
	if err := s.mayClaim(t, c); err != nil {
		return 0, err
	}
	if b.Claim == nil {
		return 0, nil
	}
	return s.credit(c, b.Claim, nil)
}

// applyProviderClose pays the last claim, if there is one, and gives the rest
// back at once. Its fee is at most what it credits: there is one close for each
// open, and the open was paid for.
func (s *State) applyProviderClose(t *Tx, b *Close, c *Channel, size int) Result {
	add, err := s.closable(t, b, c)
	if err != nil {
		return fail(err)
	}
	c.Paid += add
	r := s.earn(c, add, min(s.price(size), add))
	if back := s.dropChannel(c); back > 0 {
		r.Moves = append(r.Moves, Move{c.Payer, In, back, c.Provider})
	}
	return r
}

// payerClose starts the deadline after which the payer may reclaim; claims count
// until then.
func (s *State) payerClose(t *Tx, b *Close) Result {
	c, err := s.paidBy(t, b.Channel)
	if err != nil {
		return fail(err)
	}
	if b.Claim != nil {
		return fail(fmt.Errorf("close: only the provider claims: %w", top.ErrInvalid))
	}
	if c.Closing {
		return fail(fmt.Errorf("channel %s is closing already, until %s: %w", c.ID.Short(), top.UnixMilli(int64(c.Expiry)*1000), top.ErrDenied))
	}
	c.Closing = true
	if at := s.now/1000 + s.params.DeadlineSec; at < c.Expiry {
		c.Expiry = at
	}
	c.ExpiryHeight = max(c.ExpiryHeight, s.height+top.Height(s.params.DeadlineBlocks))
	s.putChannel(c)
	return Result{Channel: &c.ID}
}

func (s *State) reclaim(t *Tx, b *Reclaim) Result {
	c, err := s.paidBy(t, b.Channel)
	if err != nil {
		return fail(err)
	}
	if !c.Over(s.height, s.now) {
		return fail(fmt.Errorf("channel %s: claims count until %s and block %d: %w", c.ID.Short(), top.UnixMilli(int64(c.Expiry)*1000), c.ExpiryHeight, top.ErrDenied))
	}
	back := s.dropChannel(c)
	id := c.ID
	return Result{Channel: &id, Moves: []Move{{c.Payer, In, back, c.Provider}}}
}

// paidBy is a channel that t's account pays for.
func (s *State) paidBy(t *Tx, id top.ID) (*Channel, error) {
	c, ok := s.channel[id]
	if !ok {
		return nil, fmt.Errorf("channel %s: there is none, or it is closed: %w", id.Short(), top.ErrNotFound)
	}
	if c.Payer != t.From {
		return nil, fmt.Errorf("channel %s is paid by account %d: %w", id.Short(), c.Payer, top.ErrDenied)
	}
	return c, nil
}
