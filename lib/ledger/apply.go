package ledger

import (
	"container/heap"
	"fmt"
	"slices"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// Way is the direction of a Move.
type Way uint8

// The directions.
const (
	In Way = iota
	Out
)

// A Move is money that one account got or gave, for its history.
type Move struct {
	Account uint32
	Way     Way
	Amount  top.Amount
	Peer    uint32
}

// A Result is what became of a transaction. Code, Fee and Paid are agreed upon
// by all replicas; Message is for people.
type Result struct {
	Code    uint32 // the exit code of Kind; 0 is done
	Kind    top.Kind
	Message string
	Fee     top.Amount
	Free    bool    // paid from the allowance
	Channel *top.ID // opened, claimed, closed or reclaimed
	Paid    top.Amount
	Moves   []Move // none when it failed; good until the next Apply
}

// maxNonceJump is how far above the highest used nonce the next may be, so that
// neither a bug nor a thief can burn the whole space at once.
const maxNonceJump = 1 << 16

// fail is the Result of a refused transaction.
func fail(err error) Result {
	k := top.KindOf(err)
	return Result{Code: uint32(k.Exit()), Kind: k, Message: err.Error()}
}

// Apply carries out a transaction whose signature was verified and that is size
// bytes long. It never panics and never returns an error: a transaction that
// fails has a Result that says so (L3). A failed one pays its fee and uses its
// nonce, unless it could be replayed, is void, or has nobody who could pay: then
// nothing changes at all.
func (s *State) Apply(t *Tx, size int) Result {
	if err := s.stateless(t); err != nil {
		return fail(err)
	}
	switch b := t.Body.(type) {
	case *Claim:
		return s.applyClaim(t, b, size)
	case *Close:
		if c, ok := s.channel[b.Channel]; ok && c.Provider == t.From {
			return s.applyProviderClose(t, b, c, size)
		}
	}
	if err := s.payable(t, size, s.now); err != nil {
		return fail(err)
	}
	fee, free := s.charge(t.From, size)
	s.useNonce(t.From, t.Nonce)
	s.touch(t.From)
	r := s.run(t)
	r.Fee, r.Free = fee, free
	return r
}

// WarmTxs is how many transactions Warm is best given at a time: more than the
// processor's fetches under way, less than its first cache holds (BenchmarkApply).
const WarmTxs = 64

// Warm reads what the next few transactions will read, so that the processor
// fetches it all at once instead of waiting for each in turn: a ledger of a
// million accounts is larger than its caches. It changes nothing.
func (s *State) Warm(txs []Signed) {
	var sum byte
	for _, t := range txs {
		if int(t.From) < len(s.hot) {
			sum += byte(s.hot[t.From].balance) + s.cold[t.From].key[0] + byte(s.cold[t.From].locked)
		}
		if b, ok := t.Body.(*Transfer); ok && int(b.To.Index) < len(s.hot) {
			sum += byte(s.hot[b.To.Index].balance)
		}
	}
	s.warmed = sum
}

// run carries out a body whose fee is paid.
func (s *State) run(t *Tx) Result {
	switch b := t.Body.(type) {
	case *Transfer:
		return s.transfer(t, b)
	case *Batch:
		return s.batch(t, b)
	case *Lock:
		return s.lock(t, b)
	case *Unlock:
		return s.unlock(t, b)
	case *Register:
		return s.register(t, b)
	case *Unregister:
		return s.unregister(t)
	case *Open:
		return s.open(t, b)
	case *Close:
		return s.payerClose(t, b)
	case *Reclaim:
		return s.reclaim(t, b)
	case *Mailbox:
		return s.mailbox(t, b)
	}
	return s.runStake(t)
}

// stateless checks what never changes on this chain: its id and its kinds.
func (s *State) stateless(t *Tx) error {
	if t.Chain != s.params.Chain {
		return fmt.Errorf("the transaction is for chain %s, this is %s: %w", t.Chain, s.params.Chain, top.ErrDenied)
	}
	if s.kinds>>t.Body.Kind()&1 == 0 {
		return fmt.Errorf("this chain takes no %s transactions: %w", t.Body.Kind(), top.ErrDenied)
	}
	return nil
}

// Admit says whether a verified transaction of size bytes may wait for a block:
// whether it would pay its way if it were applied alone, now. A pool asks;
// consensus does not.
func (s *State) Admit(t *Tx, size int) error {
	if err := s.stateless(t); err != nil {
		return err
	}
	switch b := t.Body.(type) {
	case *Claim:
		_, _, err := s.claimable(t, b, size)
		return err
	case *Close:
		if c, ok := s.channel[b.Channel]; ok && c.Provider == t.From {
			_, err := s.closable(t, b, c)
			return err
		}
	}
	return s.payable(t, size, s.now)
}

// payable checks everything for which a failure must cost nothing: who signs,
// the expiry, the nonce, the fee.
func (s *State) payable(t *Tx, size int, now uint64) error {
	if int(t.From) >= len(s.hot) {
		return fmt.Errorf("account %d: there is none: %w", t.From, top.ErrNotFound)
	}
	if s.cold[t.From].key != t.Key {
		if s.cold[t.From].node == t.Key {
			return fmt.Errorf("a node key cannot sign a %s, only the account's key can: %w", t.Body.Kind(), top.ErrDenied)
		}
		return fmt.Errorf("account %d has another key: %w", t.From, top.ErrDenied)
	}
	if now/1000 >= t.Expiry {
		return fmt.Errorf("the transaction expired at %s: %w", top.UnixMilli(int64(min(t.Expiry, 1<<40))*1000), top.ErrDenied)
	}
	if err := s.nonceFree(t.From, t.Nonce); err != nil {
		return err
	}
	if s.cold[t.From].locked >= top.One && s.allowance(t.From) >= uint64(size)*msPerDay {
		return nil
	}
	if fee := s.price(size); s.hot[t.From].balance < fee {
		return fmt.Errorf("the fee is %s TOP and the balance %s: %w", fee, s.hot[t.From].balance, top.ErrDenied)
	}
	return nil
}

// nonceFree says why a nonce cannot be used (L2).
func (s *State) nonceFree(i uint32, nonce uint64) error {
	h := &s.hot[i]
	switch {
	case nonce == 0:
		return fmt.Errorf("nonce 0 is never valid: %w", top.ErrDenied)
	case nonce > h.nonce:
		if nonce-h.nonce > maxNonceJump {
			return fmt.Errorf("nonce %d is more than %d above the last, %d: %w", nonce, maxNonceJump, h.nonce, top.ErrDenied)
		}
	case h.nonce-nonce >= 64:
		return fmt.Errorf("nonce %d is too old, the last is %d: %w", nonce, h.nonce, top.ErrDenied)
	case h.window>>(h.nonce-nonce)&1 == 1:
		return fmt.Errorf("nonce %d was used: the transaction, or another with its nonce, was carried out: %w", nonce, top.ErrDenied)
	}
	return nil
}

func (s *State) useNonce(i uint32, nonce uint64) {
	h := &s.hot[i]
	if nonce > h.nonce {
		h.window = shift(h.window, nonce-h.nonce) | 1
		h.nonce = nonce
		return
	}
	h.window |= 1 << (h.nonce - nonce)
}

func shift(w, n uint64) uint64 {
	if n >= 64 {
		return 0
	}
	return w << n
}

// NonceUsed says whether a nonce of an account cannot be used any more.
func (a Account) NonceUsed(nonce uint64) bool {
	if nonce > a.Nonce {
		return false
	}
	return a.Nonce-nonce >= 64 || a.Window>>(a.Nonce-nonce)&1 == 1
}

// msPerDay is the resolution of allowances: they are counted in bytes × msPerDay
// so that no refill, however short, loses anything.
const msPerDay = 24 * 3600 * 1000

// allowance is the bytes × msPerDay that an account may use now for free.
func (s *State) allowance(i uint32) uint64 {
	return allowanceAt(s.params, join(s.hot[i], s.cold[i]), s.now)
}

// AllowanceAt is the bytes that an account may use for free at a time in unix
// milliseconds: it refills linearly to one day's worth.
func AllowanceAt(p Params, a Account, unixMilli uint64) uint64 {
	return allowanceAt(p, a, unixMilli) / msPerDay
}

func allowanceAt(p Params, a Account, now uint64) uint64 {
	perDay := uint64(a.Locked/top.One) * p.AllowanceBytes // < 2^34 × 2^20
	full := mulCap(perDay, msPerDay)
	gain := uint64(0)
	if now > a.AllowanceAt {
		gain = mulCap(perDay, min(now-a.AllowanceAt, msPerDay))
	}
	return min(full, satAdd(a.Allowance, gain))
}

// mulCap and satAdd stop at 2^63: an allowance that large is never used up.
func mulCap(a, b uint64) uint64 {
	if b != 0 && a > (1<<63)/b {
		return 1 << 63
	}
	return a * b
}

func satAdd(a, b uint64) uint64 { return min(a+b, 1<<63) }

// settleAllowance brings an account's allowance up to now, before what it
// depends on changes.
func (s *State) settleAllowance(i uint32) {
	s.hot[i].allowance = s.allowance(i)
	s.hot[i].allowanceAt = s.now
}

// price is the fee of size bytes.
func (s *State) price(size int) top.Amount { return s.params.FeePerByte * top.Amount(size) }

// charge takes the fee: wholly from the allowance when that is enough, else
// wholly from the balance, which payable found to be enough. It is burned.
func (s *State) charge(i uint32, size int) (fee top.Amount, free bool) {
	h := &s.hot[i]
	need := uint64(size) * msPerDay
	if s.cold[i].locked >= top.One {
		if have := s.allowance(i); have >= need {
			h.allowance, h.allowanceAt = have-need, s.now
			return 0, true
		}
	}
	fee = s.price(size)
	h.balance -= fee
	s.burned += fee
	return fee, fee == 0
}

// done is the Result of a transaction that moved money. The list is the state's,
// used again by the next: a transfer allocates nothing.
func (s *State) done(moves ...Move) Result {
	s.moves = append(s.moves[:0], moves...)
	return Result{Moves: s.moves}
}

func (s *State) transfer(t *Tx, b *Transfer) Result {
	if s.hot[t.From].balance < b.Amount {
		return fail(s.short(t.From, b.Amount))
	}
	to, fresh, err := s.resolve(b.To)
	if err != nil {
		return fail(err)
	}
	got := b.Amount
	if fresh {
		if got <= s.params.AccountFee {
			return fail(fmt.Errorf("a new account costs %s TOP out of its first credit, and %s is not more: %w", s.params.AccountFee, got, top.ErrDenied))
		}
		got -= s.params.AccountFee
		s.burned += s.params.AccountFee
		to = s.newAccount(*b.To.Address)
	}
	s.hot[t.From].balance -= b.Amount
	s.hot[to].balance += got
	s.hotPages.touch(to)
	return s.done(Move{t.From, Out, b.Amount, to}, Move{to, In, got, t.From})
}

func (s *State) short(i uint32, want top.Amount) error {
	return fmt.Errorf("the balance is %s TOP, %s are needed: %w", s.hot[i].balance, want, top.ErrDenied)
}

// resolve is the account of a Dest; fresh when its address has none yet.
func (s *State) resolve(d Dest) (i uint32, fresh bool, err error) {
	if d.Address == nil {
		if int(d.Index) >= len(s.hot) {
			return 0, false, fmt.Errorf("account %d: there is none: %w", d.Index, top.ErrNotFound)
		}
		return d.Index, false, nil
	}
	i, ok := s.byKey[*d.Address]
	return i, !ok, nil
}

// newAccount makes an account on its first credit.
func (s *State) newAccount(a top.Address) uint32 {
	i := s.addAccount(a)
	s.hot[i].allowanceAt = s.now
	return i
}

// batch checks every record before it moves anything (L6).
func (s *State) batch(t *Tx, b *Batch) Result {
	total, err := s.batchTotal(b)
	if err != nil {
		return fail(err)
	}
	if s.hot[t.From].balance < total {
		return fail(s.short(t.From, total))
	}
	at := make([]uint32, len(b.New))
	for i, a := range b.New {
		if old, ok := s.byKey[a]; ok {
			at[i] = old
			continue
		}
		at[i] = s.newAccount(a)
		s.burned += s.params.AccountFee
		// The fee comes out of the credits below: the total of a new address is
		// above it, so the balance is whole again when the batch ends.
		s.hot[at[i]].balance -= s.params.AccountFee
	}
	s.hot[t.From].balance -= total
	moves := make([]Move, 0, 1+len(b.Records))
	moves = append(moves, Move{t.From, Out, total, t.From})
	fresh := uint32(len(b.New))
	for _, r := range b.Records {
		to := r.Index - fresh
		if r.Index < fresh {
			to = at[r.Index]
		}
		s.hot[to].balance += r.Amount
		s.hotPages.touch(to)
		moves = append(moves, Move{to, In, r.Amount, t.From})
	}
	return Result{Moves: moves}
}

// batchTotal is the sum of a batch whose every record can be carried out.
func (s *State) batchTotal(b *Batch) (total top.Amount, err error) {
	credit := make([]top.Amount, len(b.New))
	seen := make(map[top.Address]bool, len(b.New))
	for i, a := range b.New {
		if seen[a] {
			return 0, fmt.Errorf("batch: address %d, %s, is listed twice: %w", i, a, top.ErrInvalid)
		}
		seen[a] = true
	}
	fresh := uint32(len(b.New))
	for n, r := range b.Records {
		if r.Index >= fresh && int(r.Index-fresh) >= len(s.hot) {
			return 0, fmt.Errorf("batch: record %d: account %d: there is none: %w", n, r.Index-fresh, top.ErrNotFound)
		}
		var ok bool
		if total, ok = total.Add(r.Amount); !ok || total > top.MaxSupply {
			return 0, fmt.Errorf("batch: more than there can ever be: %w", top.ErrDenied)
		}
		if r.Index < fresh {
			credit[r.Index] += r.Amount
		}
	}
	for i, a := range b.New {
		if _, old := s.byKey[a]; !old && credit[i] <= s.params.AccountFee {
			return 0, fmt.Errorf("batch: a new account costs %s TOP out of its first credit, and %s gets %s: %w", s.params.AccountFee, a, credit[i], top.ErrDenied)
		}
	}
	return total, nil
}

func (s *State) lock(t *Tx, b *Lock) Result {
	h, c := &s.hot[t.From], &s.cold[t.From]
	if h.balance < b.Amount {
		return fail(s.short(t.From, b.Amount))
	}
	s.settleAllowance(t.From)
	h.balance -= b.Amount
	c.locked += b.Amount
	return s.done(Move{t.From, Out, b.Amount, t.From})
}

func (s *State) unlock(t *Tx, b *Unlock) Result {
	c := &s.cold[t.From]
	if c.locked < b.Amount {
		return fail(fmt.Errorf("%s TOP are locked, %s were asked for: %w", c.locked, b.Amount, top.ErrDenied))
	}
	s.settleAllowance(t.From)
	c.locked -= b.Amount
	s.returnLater(t.From, b.Amount)
	// What is left earns less: it keeps no more than its own full allowance.
	s.settleAllowance(t.From)
	return Result{}
}

// returnLater puts money on its way back. It joins what is on its way already,
// and all of it waits from now.
func (s *State) returnLater(i uint32, a top.Amount) {
	c := &s.cold[i]
	c.unlocking += a
	c.unlockAt = s.now/1000 + s.params.UnlockSeconds
	heap.Push(&s.unlocks, unlock{c.unlockAt, i})
	s.touch(i)
}

// register enters a node, or changes its row; the stake moves by the difference.
func (s *State) register(t *Tx, b *Register) Result {
	c := &s.cold[t.From]
	if !keys.Verify(b.Node, registerDomain, t.Chain, c.key[:], b.NodeSig) {
		return fail(fmt.Errorf("register: the node key did not sign for this account: %w", top.ErrDenied))
	}
	if n, ok := s.node[b.Node]; ok && n.Owner != t.From {
		return fail(fmt.Errorf("register: node %s belongs to account %d: %w", b.Node, n.Owner, top.ErrDenied))
	}
	if top.Address(b.Node) == c.key {
		return fail(fmt.Errorf("register: the node key must not be the account's key: %w", top.ErrDenied))
	}
	var old top.Amount
	if was, ok := s.node[c.node]; ok {
		old = was.Stake
	}
	if b.Stake > old && s.hot[t.From].balance < b.Stake-old {
		return fail(s.short(t.From, b.Stake-old))
	}
	r := Result{}
	if b.Stake > old {
		s.hot[t.From].balance -= b.Stake - old
		r = s.done(Move{t.From, Out, b.Stake - old, t.From})
	} else if b.Stake < old {
		s.returnLater(t.From, old-b.Stake)
	}
	if c.node != b.Node {
		s.dropNode(c.node)
	}
	c.node = b.Node
	s.putNode(&Node{ID: b.Node, Owner: t.From, Name: b.Name, Addrs: b.Addrs, Offers: b.Offers, Capacity: b.Capacity, Stake: b.Stake})
	return r
}

func (s *State) unregister(t *Tx) Result {
	c := &s.cold[t.From]
	n, ok := s.node[c.node]
	if !ok {
		return fail(fmt.Errorf("unregister: account %d has no node: %w", t.From, top.ErrNotFound))
	}
	if n.Stake > 0 {
		s.returnLater(t.From, n.Stake)
	}
	s.dropNode(c.node)
	c.node = top.NodeID{}
	return Result{}
}

// A Node is a row of the registry.
type Node struct {
	ID       top.NodeID
	Owner    uint32
	Name     string
	Addrs    []string
	Offers   []session.Offer
	Capacity uint64 // claimed, kbit/s
	Stake    top.Amount
}

func (n *Node) offers(service string) bool {
	return slices.ContainsFunc(n.Offers, func(o session.Offer) bool { return o.Service == service })
}

func (n *Node) clone() Node {
	c := *n
	c.Addrs, c.Offers = slices.Clone(n.Addrs), slices.Clone(n.Offers)
	return c
}

func (n *Node) encode() []byte {
	var e wire.Encoder
	e.Uint(uint64(n.Owner))
	r := Register{Node: n.ID, Name: n.Name, Addrs: n.Addrs, Offers: n.Offers, Capacity: n.Capacity, Stake: n.Stake}
	r.put(&e)
	return e.Out()
}

func (n *Node) get(d *wire.Decoder) {
	n.Owner = d.Uint32()
	var r Register
	r.get(d)
	if r.NodeSig != [64]byte{} {
		d.Fail("a signature in a row")
	}
	n.ID, n.Name, n.Addrs, n.Offers, n.Capacity, n.Stake = r.Node, r.Name, r.Addrs, r.Offers, r.Capacity, r.Stake
}

func (s *State) putNode(n *Node) {
	s.node[n.ID] = n
	if at, ok := slices.BinarySearchFunc(s.nodeList, n.ID, compareNodes); !ok {
		s.nodeList = slices.Insert(s.nodeList, at, n.ID)
	}
	s.nodes.put(n.ID, leafHash(nodeDomain, n.ID, n.encode()))
}

func (s *State) dropNode(id top.NodeID) {
	if _, ok := s.node[id]; !ok {
		return
	}
	delete(s.node, id)
	if at, ok := slices.BinarySearchFunc(s.nodeList, id, compareNodes); ok {
		s.nodeList = slices.Delete(s.nodeList, at, at+1)
	}
	s.nodes.remove(id)
}

func compareNodes(a, b top.NodeID) int { return slices.Compare(a[:], b[:]) }
