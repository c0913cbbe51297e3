package stake

import (
	"cmp"
	"fmt"
	"slices"

	"top/lib/top"
)

// An Offence is two blocks of one height that a validator signed, as the consensus
// reports it.
type Offence struct {
	Voter  [20]byte
	Height top.Height
}

// A Power is a validator's new weight in the consensus; 0 takes it out.
type Power struct {
	ID    top.ValidatorID
	Power uint64
}

// Alive notes who voted on the last block or proposed this one (K6).
func (b *Book) Alive(voters [][20]byte) {
	for _, a := range voters {
		v, ok := b.vals[b.voter[a]]
		if ok && v.Power > 0 && v.Seen < b.head.Epoch {
			v.Seen = b.head.Epoch
			b.putValidator(v)
		}
	}
}

// Punish takes a validator's stake for signing twice, and takes it out for ever.
// One that was punished before, or that has no row, loses nothing (K4).
func (b *Book) Punish(o Offence, now uint64) (taken top.Amount) {
	v, ok := b.vals[b.voter[o.Voter]]
	if !ok || v.Gone {
		return 0
	}
	taken = b.slash(v, b.params.DoubleSignPPM, o.Height, now)
	v.Gone = true
	b.jail(v, now)
	return taken
}

// slash takes a part of every coin that answers for what a validator did at a
// height (K3, K4).
func (b *Book) slash(v *Validator, ppm uint64, height top.Height, now uint64) (taken top.Amount) {
	b.settle(v, now)
	part := func(n uint64) uint64 { return mulDivUp(n, ppm, million) }
	taken = top.Amount(part(uint64(v.Tokens)))
	v.Tokens -= taken
	for _, id := range b.from[v.ID] {
		l := b.leaving[id]
		if l.Answers < height || l.Amount == 0 && l.Shares == 0 {
			continue
		}
		if l.To.IsZero() {
			cut := top.Amount(part(uint64(l.Amount)))
			l.Amount -= cut
			taken += cut
		} else {
			u := b.vals[l.To]
			b.settle(u, now)
			shares := part(l.Shares)
			cut := u.Worth(shares)
			l.Shares -= shares
			u.Shares -= shares
			u.Tokens -= cut
			taken += cut
			b.putValidator(u)
		}
		b.putLot(l)
	}
	v.Slashed += taken
	b.head.Burned += taken
	b.putHead()
	b.putValidator(v)
	return taken
}

// jail takes a validator out of the set, unless nobody would be left in it: then
// the next election does (K5).
func (b *Book) jail(v *Validator, now uint64) {
	v.Jailed = true
	v.JailedTill = now/1000 + b.params.JailSeconds
	others := slices.ContainsFunc(b.order, func(id top.ValidatorID) bool { return id != v.ID && b.vals[id].Power > 0 })
	if v.Power > 0 && others {
		v.Power = 0
		b.out = append(b.out, v.ID)
	}
	b.putValidator(v)
}

// Unjail lets a validator that was down stand again at the next election.
func (b *Book) Unjail(w Wish, id top.ValidatorID) error {
	v, err := b.validator(id)
	switch {
	case err != nil:
		return err
	case v.Owner != w.Who:
		return fmt.Errorf("validator %s belongs to account %d: %w", id, v.Owner, top.ErrDenied)
	case v.Gone:
		return fmt.Errorf("validator %s signed twice and is out for ever: %w", id, top.ErrDenied)
	case !v.Jailed:
		return fmt.Errorf("validator %s is not in jail: %w", id, top.ErrDenied)
	case w.Now/1000 < v.JailedTill:
		return fmt.Errorf("validator %s is in jail until %s: %w", id, top.UnixMilli(int64(v.JailedTill)*1000), top.ErrDenied)
	}
	v.Jailed, v.JailedTill = false, 0
	b.putValidator(v)
	return nil
}

// A Day is what the end of a block brings: nothing but the penalties, unless an
// epoch ends with it.
type Day struct {
	Powers  []Power   // that change, in the order of the ids
	Back    []Release // deposits
	Changes []Change  // of parameters, as voted
}

// End closes a block. At the end of an epoch it pays the yield, jails who was down,
// counts the votes and elects.
func (b *Book) End(height top.Height, now uint64) (d Day) {
	changed := map[top.ValidatorID]bool{}
	for _, id := range b.out {
		changed[id] = true
	}
	if b.head.On && height >= b.head.Next {
		for _, id := range b.order {
			if v := b.vals[id]; v.Power > 0 {
				b.settle(v, now)
			}
		}
		b.findDown(height, now, changed)
		d.Back, d.Changes = b.count()
		b.head.Epoch++
		b.head.Next = height + top.Height(b.params.EpochBlocks)
		b.putHead()
		b.elect(now, changed)
	}
	b.out = b.out[:0]
	for _, id := range b.order {
		if changed[id] {
			d.Powers = append(d.Powers, Power{id, b.vals[id].Power})
		}
	}
	if len(changed) > 0 {
		for _, id := range b.Validators() {
			b.sweep(id)
		}
	}
	return d
}

// findDown punishes who gave no sign of life for DowntimeEpochs epochs.
func (b *Book) findDown(height top.Height, now uint64, changed map[top.ValidatorID]bool) {
	for _, id := range b.order {
		v := b.vals[id]
		if v.Power > 0 && !v.Jailed && b.head.Epoch-v.Seen >= b.params.DowntimeEpochs {
			b.slash(v, b.params.DowntimePPM, height, now)
			b.jail(v, now)
			if v.Power == 0 {
				changed[id] = true
			}
		}
	}
}

// elect gives power to those with the most coins (K5).
func (b *Book) elect(now uint64, changed map[top.ValidatorID]bool) {
	var stand []*Validator
	for _, id := range b.order {
		v := b.vals[id]
		if d, ok := b.parts[part{id, v.Owner}]; ok && !v.Jailed && v.Worth(d.Shares) >= b.params.MinSelf {
			stand = append(stand, v)
		}
	}
	if len(stand) == 0 {
		return
	}
	slices.SortStableFunc(stand, func(a, b *Validator) int { return cmp.Compare(b.Tokens, a.Tokens) })
	power := map[top.ValidatorID]uint64{}
	for _, v := range stand[:min(len(stand), int(b.params.MaxValidators))] {
		power[v.ID] = uint64(v.Tokens / powerUnit)
	}
	for _, id := range b.order {
		v := b.vals[id]
		if v.Power == power[id] {
			continue
		}
		b.settle(v, now)
		if v.Power == 0 {
			v.Seen = b.head.Epoch
		}
		v.Power = power[id]
		changed[id] = true
		b.putValidator(v)
	}
}

// Install elects the first set, at genesis.
func (b *Book) Install(now uint64) { b.elect(now, map[top.ValidatorID]bool{}) }

// Powers is the set elected last, in the order of the ids.
func (b *Book) Powers() (ps []Power) {
	for _, id := range b.order {
		if v := b.vals[id]; v.Power > 0 {
			ps = append(ps, Power{id, v.Power})
		}
	}
	return ps
}
