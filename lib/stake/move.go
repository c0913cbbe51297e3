package stake

import (
	"container/heap"
	"fmt"
	"slices"

	"top/lib/top"
)

// A Wish is who asks for a change, and when.
type Wish struct {
	Who    uint32 // account
	ID     top.ID // unique: names what the wish puts on its way
	Height top.Height
	Now    uint64 // unix ms
}

var errFixed = fmt.Errorf("the validators of this chain are those of its genesis: %w", top.ErrDenied)

// Found enters a validator at genesis, with a stake of its owner and power at once.
func (b *Book) Found(v Validator, self top.Amount, now uint64) error {
	if _, twice := b.vals[v.ID]; twice || self < b.params.MinSelf {
		return fmt.Errorf("genesis: validator %s: twice, or with less than %s TOP: %w", v.ID, b.params.MinSelf, top.ErrInvalid)
	}
	if err := checkFace(v.Name, v.Commission); err != nil {
		return err
	}
	b.add(&Validator{ID: v.ID, Owner: v.Owner, Name: v.Name, Commission: v.Commission, Settled: now})
	if err := b.join(b.vals[v.ID], v.Owner, self, now); err != nil {
		return err
	}
	b.head.On, b.head.Next = true, top.Height(b.params.EpochBlocks)
	b.putHead()
	return nil
}

func checkFace(name string, commission uint64) error {
	if len(name) > maxName || commission > maxCommission {
		return fmt.Errorf("validator: a name of %d bytes, at most %d, and a commission of %d, at most %d: %w", len(name), maxName, commission, maxCommission, top.ErrInvalid)
	}
	return nil
}

// Enter makes a validator of a key, or changes the name and the commission of the
// wisher's. A commission rises by one percent an epoch at most. Coins are delegated
// to it by the owner: none are needed to change it.
func (b *Book) Enter(w Wish, v Validator, self top.Amount) error {
	if !b.head.On {
		return errFixed
	}
	if err := checkFace(v.Name, v.Commission); err != nil {
		return err
	}
	old, ok := b.vals[v.ID]
	if !ok {
		if self < b.params.MinSelf {
			return fmt.Errorf("a validator begins with %s TOP of its owner, not %s: %w", b.params.MinSelf, self, top.ErrDenied)
		}
		b.add(&Validator{ID: v.ID, Owner: w.Who, Name: v.Name, Commission: v.Commission, Settled: w.Now})
		return b.join(b.vals[v.ID], w.Who, self, w.Now)
	}
	if old.Owner != w.Who {
		return fmt.Errorf("validator %s belongs to account %d: %w", v.ID, old.Owner, top.ErrDenied)
	}
	if rise := v.Commission > old.Commission; rise && (v.Commission-old.Commission > maxRaise || old.Raised == b.head.Epoch+1) {
		return fmt.Errorf("a commission rises by %d %% at most, once an epoch (it is %d.%02d %%): %w", maxRaise/100, old.Commission/100, old.Commission%100, top.ErrDenied)
	}
	if self > 0 {
		if err := b.join(old, w.Who, self, w.Now); err != nil {
			return err
		}
	}
	b.settle(old, w.Now) // at the commission that was
	if v.Commission > old.Commission {
		old.Raised = b.head.Epoch + 1
	}
	old.Name, old.Commission = v.Name, v.Commission
	b.putValidator(old)
	return nil
}

// Delegate puts coins, which the caller takes from the balance, into a pool.
func (b *Book) Delegate(w Wish, to top.ValidatorID, amount top.Amount) error {
	v, err := b.validator(to)
	if err != nil {
		return err
	}
	return b.join(v, w.Who, amount, w.Now)
}

func (b *Book) validator(id top.ValidatorID) (*Validator, error) {
	if !b.head.On {
		return nil, errFixed
	}
	v, ok := b.vals[id]
	if !ok {
		return nil, fmt.Errorf("validator %s: there is none: %w", id, top.ErrNotFound)
	}
	return v, nil
}

// join buys shares of a pool.
func (b *Book) join(v *Validator, who uint32, amount top.Amount, now uint64) error {
	shares, err := b.buy(v, amount, now)
	if err != nil {
		return err
	}
	v.Tokens += amount
	v.Shares += shares
	b.addShares(v, who, shares)
	return nil
}

// buy is the shares that coins would buy, rounded down (K2).
func (b *Book) buy(v *Validator, amount top.Amount, now uint64) (uint64, error) {
	switch {
	case amount < minStake:
		return 0, fmt.Errorf("a stake begins at %s TOP: %w", minStake, top.ErrDenied)
	case v.Gone:
		return 0, fmt.Errorf("validator %s signed twice and is out for ever: %w", v.ID, top.ErrDenied)
	case v.Shares > 0 && v.Tokens == 0:
		return 0, fmt.Errorf("validator %s lost all that it had: %w", v.ID, top.ErrDenied)
	}
	b.settle(v, now)
	shares := uint64(amount)
	if v.Shares > 0 {
		shares = mulDiv(uint64(amount), v.Shares, uint64(v.Tokens))
	}
	if shares == 0 || shares > maxShares-v.Shares {
		return 0, fmt.Errorf("validator %s: %s TOP come to no shares, or to more than there can be: %w", v.ID, amount, top.ErrDenied)
	}
	return shares, nil
}

// settle pays a pool the yield up to now: a commission to the owner, as shares, the
// rest to all (K1).
func (b *Book) settle(v *Validator, now uint64) {
	if now <= v.Settled {
		return
	}
	if v.Power > 0 && v.Shares > 0 {
		gain := min(yield(*b.params, v.Tokens, now-v.Settled), top.MaxSupply-b.supply-b.head.Minted)
		fee := top.Amount(mulDiv(uint64(gain), v.Commission, maxCommission))
		v.Tokens += gain - fee
		shares := uint64(0)
		if v.Tokens > 0 {
			shares = min(mulDiv(uint64(fee), v.Shares, uint64(v.Tokens)), maxShares-v.Shares)
		}
		v.Tokens += fee
		b.head.Minted += gain
		b.putHead()
		if shares > 0 {
			v.Shares += shares
			b.addShares(v, v.Owner, shares)
		}
	}
	v.Settled = now
	b.putValidator(v)
}

// addShares enters shares that the pool counts already.
func (b *Book) addShares(v *Validator, who uint32, shares uint64) {
	k := part{v.ID, who}
	d, ok := b.parts[k]
	if !ok {
		d = &Delegation{To: v.ID, Who: who}
		b.enter(d)
	}
	d.Shares += shares
	b.putDelegation(d)
	b.putValidator(v)
}

func (b *Book) enter(d *Delegation) {
	b.parts[part{d.To, d.Who}] = d
	at, _ := slices.BinarySearchFunc(b.of[d.Who], d.To, compareIDs)
	b.of[d.Who] = slices.Insert(b.of[d.Who], at, d.To)
}

func compareIDs(a, b top.ValidatorID) int { return slices.Compare(a[:], b[:]) }

// sell takes coins out of an account's part of a pool, at least as many as asked
// for; 0 asks for all. It gives what the shares were worth (K2).
func (b *Book) sell(v *Validator, w Wish, amount top.Amount) (top.Amount, error) {
	d, ok := b.parts[part{v.ID, w.Who}]
	if !ok {
		return 0, fmt.Errorf("account %d has nothing with validator %s: %w", w.Who, v.ID, top.ErrNotFound)
	}
	if len(b.lotsOf[w.Who]) >= maxLeaving {
		return 0, fmt.Errorf("%d lots are on their way already (wait until one is free): %w", maxLeaving, top.ErrDenied)
	}
	b.settle(v, w.Now)
	have := v.Worth(d.Shares)
	if amount > have || have == 0 {
		return 0, fmt.Errorf("account %d has %s TOP with validator %s, %s were asked for: %w", w.Who, have, v.ID, amount, top.ErrDenied)
	}
	shares := d.Shares
	if amount > 0 && have-amount >= minStake {
		shares = mulDivUp(uint64(amount), v.Shares, uint64(v.Tokens))
	}
	got := v.Worth(shares)
	v.Tokens -= got
	v.Shares -= shares
	if d.Shares -= shares; d.Shares == 0 {
		b.dropDelegation(d)
	} else {
		b.putDelegation(d)
	}
	b.putValidator(v)
	return got, nil
}

// Undelegate puts coins on their way out of a pool; 0 is all. Less than a whole TOP
// does not stay behind. They answer for the validator until it is elected without
// them, and for that until they are free (K3).
func (b *Book) Undelegate(w Wish, from top.ValidatorID, amount top.Amount) error {
	v, err := b.validator(from)
	if err != nil {
		return err
	}
	got, err := b.sell(v, w, amount)
	if err != nil {
		return err
	}
	b.leave(&Leaving{ID: w.ID, Who: w.Who, From: from, Amount: got}, w)
	return nil
}

// Redelegate moves coins to another validator at once. Until they would have been
// free they answer for the first one too, and cannot be moved again.
func (b *Book) Redelegate(w Wish, from, to top.ValidatorID, amount top.Amount) error {
	v, err := b.validator(from)
	if err != nil {
		return err
	}
	u, err := b.validator(to)
	if err != nil {
		return err
	}
	if from == to {
		return fmt.Errorf("from validator %s to itself: %w", from, top.ErrDenied)
	}
	// What could fail comes first: after the sale nothing does.
	if amount > 0 && amount < minStake {
		return fmt.Errorf("a stake begins at %s TOP: %w", minStake, top.ErrDenied)
	}
	b.settle(v, w.Now)
	if d, ok := b.parts[part{from, w.Who}]; ok {
		if _, err := b.buy(u, v.Worth(d.Shares), w.Now); err != nil {
			return err
		}
	}
	if amount > 0 {
		if _, err := b.buy(u, amount, w.Now); err != nil {
			return err
		}
	}
	got, err := b.sell(v, w, amount)
	if err != nil {
		return err
	}
	shares, err := b.buy(u, got, w.Now)
	if err != nil {
		panic("stake: K1: " + err.Error())
	}
	u.Tokens += got
	u.Shares += shares
	b.putValidator(u)
	b.leave(&Leaving{ID: w.ID, Who: w.Who, From: from, To: to, Shares: shares}, w)
	return nil
}

// leave puts a lot on its way.
func (b *Book) leave(l *Leaving, w Wish) {
	l.At = w.Now/1000 + b.params.UnbondSeconds
	l.Answers = max(b.head.Next, w.Height) + lag
	b.enterLot(l)
	b.putLot(l)
}

func (b *Book) enterLot(l *Leaving) {
	b.leaving[l.ID] = l
	b.lotsOf[l.Who] = with(b.lotsOf[l.Who], l.ID)
	b.from[l.From] = with(b.from[l.From], l.ID)
	heap.Push(&b.due, l)
}

// with and without keep a sorted list of lots.
func with(ids []top.ID, id top.ID) []top.ID {
	at, _ := slices.BinarySearchFunc(ids, id, compareLots)
	return slices.Insert(ids, at, id)
}

func without(ids []top.ID, id top.ID) []top.ID {
	if at, ok := slices.BinarySearchFunc(ids, id, compareLots); ok {
		return slices.Delete(ids, at, at+1)
	}
	return ids
}

func compareLots(a, b top.ID) int { return slices.Compare(a[:], b[:]) }

// dropLot forgets a lot that was taken off the heap.
func (b *Book) dropLot(l *Leaving) {
	delete(b.leaving, l.ID)
	if b.lotsOf[l.Who] = without(b.lotsOf[l.Who], l.ID); len(b.lotsOf[l.Who]) == 0 {
		delete(b.lotsOf, l.Who)
	}
	if b.from[l.From] = without(b.from[l.From], l.ID); len(b.from[l.From]) == 0 {
		delete(b.from, l.From)
	}
	b.removeLot(l)
}

// add enters a validator.
func (b *Book) add(v *Validator) {
	b.enterValidator(v)
	b.putValidator(v)
}

func (b *Book) enterValidator(v *Validator) {
	b.vals[v.ID] = v
	b.voter[Voter(v.ID)] = v.ID
	at, _ := slices.BinarySearchFunc(b.order, v.ID, compareIDs)
	b.order = slices.Insert(b.order, at, v.ID)
}

// sweep forgets a validator behind which nothing stands any more. One that signed
// twice stays, so that its key never comes back.
func (b *Book) sweep(id top.ValidatorID) {
	v, ok := b.vals[id]
	if !ok || v.Gone || v.Shares > 0 || v.Power > 0 || len(b.from[id]) > 0 {
		return
	}
	// What rounding left has no owner.
	if v.Tokens > 0 {
		b.head.Burned += v.Tokens
		b.putHead()
	}
	delete(b.vals, id)
	delete(b.voter, Voter(id))
	if at, ok := slices.BinarySearchFunc(b.order, id, compareIDs); ok {
		b.order = slices.Delete(b.order, at, at+1)
	}
	b.removeValidator(v)
}
