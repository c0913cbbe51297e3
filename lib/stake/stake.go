// Package stake keeps the coins that stand behind validators: their pools, who
// delegated to them, what is on its way out, elections, penalties and votes on the
// chain's parameters. Delegated proof of stake as the Cosmos SDK's x/staking,
// x/slashing and x/gov define its terms; pools by shares in place of their lists of
// rewards, so that nobody has to collect one.
//
// It knows accounts by index and reads no clock: lib/ledger moves the coins in and
// out of balances, and tells the height and the time.
//
//	K1  coins come by the yield alone and go by penalties and lost deposits alone:
//	    pools, coins on their way and deposits add up to what was put in
//	K2  shares never take out more than they are worth; what rounding leaves stays
//	    in the pool
//	K3  coins answer for what a validator did while they stood behind it, also when
//	    they left since, until they are free
//	K4  a penalty takes the same part of all coins that answer for it, rounded up,
//	    from nobody else, and once for one offence
//	K5  the set of validators changes at an election or by a penalty, never empties,
//	    and has the most coins of those who may stand
//	K6  a validator that voted or proposed in one of the last DowntimeEpochs epochs
//	    is not down
//	K7  a vote weighs what its voter has staked when the vote ends, each coin once
package stake

import (
	"container/heap"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"

	"top/lib/top"
)

// Params are the rules of stake.
type Params struct {
	EpochBlocks    uint64     `json:"epoch_blocks"`     // from one election to the next
	MaxValidators  uint64     `json:"max_validators"`   // elected at once
	MinSelf        top.Amount `json:"min_self_stake"`   // of its owner, for a validator to be elected
	UnbondSeconds  uint64     `json:"unbond_seconds"`   // from undelegating until the coins are free
	YieldPPM       uint64     `json:"yield_ppm"`        // a year, in millionths of the stake
	DoubleSignPPM  uint64     `json:"double_sign_ppm"`  // taken for signing two blocks of one height
	DowntimePPM    uint64     `json:"downtime_ppm"`     // taken for being down
	DowntimeEpochs uint64     `json:"downtime_epochs"`  // without a sign of life, until a validator is down
	JailSeconds    uint64     `json:"jail_seconds"`     // before one that was down may stand again
	VoteEpochs     uint64     `json:"vote_epochs"`      // whole ones that a proposal is voted on, after the one it came in
	Deposit        top.Amount `json:"proposal_deposit"` // back when enough vote, however they do
}

// Default are the rules of a main chain.
func Default() Params {
	return Params{
		EpochBlocks: 1_000, MaxValidators: 100, MinSelf: 1_000 * top.One,
		UnbondSeconds: 21 * 24 * 3600, YieldPPM: 50_000,
		DoubleSignPPM: 50_000, DowntimePPM: 100, DowntimeEpochs: 12, JailSeconds: 600,
		VoteEpochs: 100, Deposit: 100 * top.One,
	}
}

const (
	million       = 1_000_000
	yearMs        = 365 * 24 * 3600 * 1000
	maxSpan       = 1 << 32 // of blocks, epochs and seconds
	maxSet        = 1_000
	maxCommission = 10_000 // hundredths of a percent
	maxRaise      = 100    // of a commission, an epoch
	maxLeaving    = 32     // lots of one account that are on their way
	maxProposals  = 16     // voted on at once
	maxName       = 32
	minStake      = top.One // what one delegation begins with: a row is not free
	maxShares     = 1 << 63
	// powerUnit is the stake for which a validator has one vote in the consensus.
	powerUnit = top.One
	// A set that was elected in block h votes on block h+2.
	lag = 2
)

// All is the rules in their order on the wire.
func (p *Params) All() []*uint64 {
	return []*uint64{
		&p.EpochBlocks, &p.MaxValidators, (*uint64)(&p.MinSelf), &p.UnbondSeconds, &p.YieldPPM,
		&p.DoubleSignPPM, &p.DowntimePPM, &p.DowntimeEpochs, &p.JailSeconds, &p.VoteEpochs, (*uint64)(&p.Deposit),
	}
}

// Check refuses rules under which a sum could wrap or an honest validator lose.
func (p Params) Check() error {
	for _, v := range []uint64{p.UnbondSeconds, p.JailSeconds, p.VoteEpochs} {
		if v > maxSpan {
			return fmt.Errorf("stake: a span of %d, at most %d: %w", v, uint64(maxSpan), top.ErrInvalid)
		}
	}
	for _, v := range []uint64{p.EpochBlocks, p.DowntimeEpochs} {
		if v == 0 || v > maxSpan {
			return fmt.Errorf("stake: epoch_blocks and downtime_epochs: %d, want 1 to %d: %w", v, uint64(maxSpan), top.ErrInvalid)
		}
	}
	for _, v := range []uint64{p.YieldPPM, p.DoubleSignPPM, p.DowntimePPM} {
		if v > million {
			return fmt.Errorf("stake: %d millionths: %w", v, top.ErrInvalid)
		}
	}
	if p.MaxValidators == 0 || p.MaxValidators > maxSet {
		return fmt.Errorf("stake: max_validators %d: want 1 to %d: %w", p.MaxValidators, maxSet, top.ErrInvalid)
	}
	if p.MinSelf < powerUnit || p.MinSelf > top.MaxSupply || p.Deposit > top.MaxSupply {
		return fmt.Errorf("stake: min_self_stake wants %s TOP at least, and no amount more than there can be: %w", powerUnit, top.ErrInvalid)
	}
	return nil
}

// A Validator is one pool and the key that votes for it.
type Validator struct {
	ID         top.ValidatorID
	Owner      uint32 // account
	Name       string
	Commission uint64 // of the yield, in hundredths of a percent
	Raised     uint64 // epoch in which the commission last rose
	Tokens     top.Amount
	Shares     uint64
	Settled    uint64 // unix ms up to which the yield was paid
	Power      uint64 // in the set elected last; 0 is out of it
	Seen       uint64 // epoch of its last vote or proposal
	Jailed     bool   // until its owner takes it out
	JailedTill uint64 // unix seconds before which that is refused
	Gone       bool   // it signed twice: never elected again
	Slashed    top.Amount
}

// A Delegation is one account's part of a pool.
type Delegation struct {
	To     top.ValidatorID
	Who    uint32
	Shares uint64
}

// A Leaving is a lot of coins on its way: out, or to another validator, where its
// shares earn already. It answers for what From did until block Answers.
type Leaving struct {
	ID      top.ID
	Who     uint32
	From    top.ValidatorID
	To      top.ValidatorID // zero: back to the balance
	Amount  top.Amount      // on its way back
	Shares  uint64          // of To's pool
	Answers top.Height
	At      uint64 // unix seconds from which it is free
}

// A Proposal is a change of one parameter that is voted on.
type Proposal struct {
	Number  uint64
	Who     uint32
	Deposit top.Amount
	Name    string
	Value   uint64
	Ends    uint64 // the vote ends with the election of this number
}

// Rows is where a Book shows what changed, for the tree that proves it.
type Rows interface {
	PutRow(key [32]byte, row []byte)
	RemoveRow(key [32]byte)
}

type part struct {
	to  top.ValidatorID
	who uint32
}

// A Book is all that is staked on one chain. It is not safe for concurrent use.
type Book struct {
	params *Params
	rows   Rows
	supply top.Amount // at genesis
	head   header

	vals    map[top.ValidatorID]*Validator
	order   []top.ValidatorID // sorted
	voter   map[[20]byte]top.ValidatorID
	parts   map[part]*Delegation
	of      map[uint32][]top.ValidatorID // to whom an account delegates, sorted
	leaving map[top.ID]*Leaving
	lotsOf  map[uint32][]top.ID          // sorted
	from    map[top.ValidatorID][]top.ID // lots on their way, sorted
	due     lots
	open    []*Proposal // by number
	votes   map[uint64]map[uint32]bool

	out []top.ValidatorID // lost their power in this block
}

// header is what a Book holds besides its lists.
type header struct {
	On        bool // validators are elected; without, those of the genesis stay
	Epoch     uint64
	Next      top.Height // of the next election
	Minted    top.Amount
	Burned    top.Amount
	Proposals uint64 // number of the last
}

// New is a book with nothing in it. params may change under it between blocks.
func New(params *Params, supply top.Amount, rows Rows) *Book {
	return &Book{
		params: params, rows: rows, supply: supply,
		vals: map[top.ValidatorID]*Validator{}, voter: map[[20]byte]top.ValidatorID{},
		parts: map[part]*Delegation{}, of: map[uint32][]top.ValidatorID{},
		leaving: map[top.ID]*Leaving{}, lotsOf: map[uint32][]top.ID{}, from: map[top.ValidatorID][]top.ID{},
		votes: map[uint64]map[uint32]bool{},
	}
}

// Minted is all that the yield has made, Burned what penalties and lost deposits
// have taken.
func (b *Book) Minted() top.Amount { return b.head.Minted }

// Burned is what penalties and lost deposits have taken.
func (b *Book) Burned() top.Amount { return b.head.Burned }

// On says whether validators are elected on this chain.
func (b *Book) On() bool { return b.head.On }

// Epoch is the number of elections held, and the block of the next.
func (b *Book) Epoch() (epoch uint64, next top.Height) { return b.head.Epoch, b.head.Next }

// Locked is all the coins that the book holds.
func (b *Book) Locked() (sum top.Amount) {
	for _, v := range b.vals {
		sum += v.Tokens
	}
	for _, l := range b.leaving {
		sum += l.Amount
	}
	for _, p := range b.open {
		sum += p.Deposit
	}
	return sum
}

// Validator is one validator.
func (b *Book) Validator(id top.ValidatorID) (Validator, bool) {
	v, ok := b.vals[id]
	if !ok {
		return Validator{}, false
	}
	return *v, true
}

// Validators lists all, in the order of their ids.
func (b *Book) Validators() []top.ValidatorID { return slices.Clone(b.order) }

// Delegations is what an account has in pools, in the order of the validators.
func (b *Book) Delegations(who uint32) (ds []Delegation) {
	for _, id := range b.of[who] {
		ds = append(ds, *b.parts[part{id, who}])
	}
	return ds
}

// Delegation is one account's part of one pool.
func (b *Book) Delegation(to top.ValidatorID, who uint32) (Delegation, bool) {
	d, ok := b.parts[part{to, who}]
	if !ok {
		return Delegation{}, false
	}
	return *d, true
}

// Leaving is an account's lots on their way, the first to be free first.
func (b *Book) Leaving(who uint32) (ls []Leaving) {
	for _, id := range b.lotsOf[who] {
		ls = append(ls, *b.leaving[id])
	}
	slices.SortFunc(ls, func(a, b Leaving) int { return lotOrder(&a, &b) })
	return ls
}

// Proposals is what is voted on, by number.
func (b *Book) Proposals() (ps []Proposal) {
	for _, p := range b.open {
		ps = append(ps, *p)
	}
	return ps
}

// Worth is what shares of a pool would take out of it now.
func (v *Validator) Worth(shares uint64) top.Amount {
	if v.Shares == 0 {
		return 0
	}
	return top.Amount(mulDiv(shares, uint64(v.Tokens), v.Shares))
}

// WorthAt is what shares of a pool come to at a later time, with the yield since.
func (v *Validator) WorthAt(p Params, shares, unixMilli uint64) top.Amount {
	w := *v
	if v.Power > 0 && unixMilli > v.Settled {
		gain := yield(p, v.Tokens, unixMilli-v.Settled)
		w.Tokens += gain - top.Amount(mulDiv(uint64(gain), v.Commission, maxCommission))
	}
	return w.Worth(shares)
}

// yield is what tokens earn in a span of time, rounded down.
func yield(p Params, tokens top.Amount, ms uint64) top.Amount {
	return top.Amount(mulDiv(uint64(tokens), p.YieldPPM*min(ms, yearMs), million*yearMs))
}

// mulDiv is a × b / c rounded down, in 128 bits; what does not fit is MaxUint64.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}

// mulDivUp is mulDiv rounded up.
func mulDivUp(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return ^uint64(0)
	}
	q, r := bits.Div64(hi, lo, c)
	if r > 0 {
		q++
	}
	return q
}

// Voter is the name under which the consensus knows a validator: the first 20
// bytes of its key's SHA-256 (CometBFT).
func Voter(id top.ValidatorID) [20]byte {
	sum := sha256.Sum256(id[:])
	return [20]byte(sum[:20])
}

// lots is a heap of lots on their way, the first to be free first.
type lots []*Leaving

func lotOrder(a, b *Leaving) int {
	switch {
	case a.At < b.At:
		return -1
	case a.At > b.At:
		return 1
	}
	return slices.Compare(a.ID[:], b.ID[:])
}

func (q lots) Len() int           { return len(q) }
func (q lots) Less(i, j int) bool { return lotOrder(q[i], q[j]) < 0 }
func (q lots) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is for container/heap.
func (q *lots) Push(x any) { *q = append(*q, x.(*Leaving)) }

// Pop is for container/heap.
func (q *lots) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	*q = (*q)[:last]
	return l
}

// A Release is coins that are an account's own again.
type Release struct {
	Who    uint32
	Amount top.Amount
}

// Begin frees what is due. Time must not go back.
func (b *Book) Begin(now uint64) (free []Release) {
	for len(b.due) > 0 && b.due[0].At <= now/1000 {
		l := heap.Pop(&b.due).(*Leaving)
		b.dropLot(l)
		if l.To.IsZero() {
			free = append(free, Release{l.Who, l.Amount})
		} else if l.Shares > 0 {
			b.addShares(b.vals[l.To], l.Who, l.Shares)
		}
		b.sweep(l.From)
	}
	return free
}
