package vpn

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/session"
	"top/lib/top"
)

// channelState is a channel that we pay on, as far as this home remembers.
type channelState struct {
	Channel top.ID
	Node    top.NodeID
	Payer   top.Address
	Cap     top.Amount
	Expiry  time.Time
	Paid    top.Amount // by claims, as its row on the chain says
	Seq     uint64     // of the newest voucher that was made
	Hop     bool       // the payer is a key for this channel alone (X4)
	Spent   top.Amount // acknowledged in sessions before
	Rest    uint64     // bytes of a unit that the session before began
	Stood   int        `json:",omitempty"` // sessions that stood still on it; the last may be given up
}

const (
	defaultCap    = top.One / 2
	defaultLasts  = 24 * time.Hour
	leastUnits    = 16               // that a channel can pay when a session begins on it
	rememberEvery = time.Second      // a write waits for the disk, and the voucher for it
	channelWait   = 30 * time.Second // until one is open on the chain
)

func (c *Client) statePath() string { return c.cfg.Home.Path("vpn", "channels.json") }

// loadChannels reads what this home remembers.
func (c *Client) loadChannels() error {
	for path, into := range map[string]any{c.statePath(): &c.channels, c.wishesPath(): &c.wishes} {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(b, into)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

// remember notes a voucher's number before it is signed, and writes it when it should.
// After a crash the exit shows the newest, and the wallet signs no number twice.
func (c *Client) remember(ch channelState, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, o := range c.channels {
		if o.Channel == ch.Channel {
			ch.Stood = o.Stood
		}
	}
	c.channels = slices.DeleteFunc(c.channels, func(o channelState) bool { return o.Channel == ch.Channel || o.Expiry.Before(now) })
	c.channels = append(c.channels, ch)
	if !write {
		return nil
	}
	return c.saveLocked()
}

func (c *Client) saveLocked() error {
	b, err := json.Marshal(c.channels)
	if err != nil {
		return fmt.Errorf("write %s: %w", c.statePath(), err)
	}
	return home.WriteFile(c.statePath(), b, 0o600)
}

// spare is what may still be spent; false when --max-spend is reached.
func (c *Client) spare() (top.Amount, bool) {
	if c.cfg.MaxSpend == 0 {
		return top.MaxSupply, true
	}
	left, ok := c.cfg.MaxSpend.Sub(c.spent())
	return left, ok && left > 0
}

// used notes what a channel came to.
func (c *Client) used(id top.ID, spent top.Amount, rest uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.channels {
		if ch := &c.channels[i]; ch.Channel == id {
			ch.Spent, ch.Rest = max(ch.Spent, spent), rest
		}
	}
	return c.saveLocked()
}

// channel is an open channel to an exit with room, and not that one; opened if there
// is none. With more than one hop it is paid by a key of its own.
func (c *Client) channel(ctx context.Context, to target, not top.ID) (channelState, error) {
	left, ok := c.spare()
	if !ok || left/top.Amount(c.cfg.Hops) < firstCredit/unit*to.offer.Price { // as bounded will divide it
		return channelState{}, top.Errorf(top.Denied, "--max-spend of %s TOP is reached", c.cfg.MaxSpend)
	}
	own := c.cfg.Hops > 1
	c.mu.Lock()
	known := slices.Clone(c.channels)
	c.mu.Unlock()
	newest, given := true, false // the newest is given up: another wants patience
	for _, ch := range slices.Backward(known) {
		if ch.Node != to.node || ch.Hop != own {
			continue
		}
		given, newest = given || newest && ch.Stood >= maxStood, false
		if ch.Channel == not || ch.Stood >= maxStood {
			continue
		}
		row, err := c.cfg.Chain.Channel(ctx, ch.Channel)
		if err != nil {
			return ch, err
		}
		if !row.Exists || row.Closing || row.Expiry.Before(c.now().Add(2*c.deadline+time.Minute)) {
			continue
		}
		ch.Cap, ch.Expiry, ch.Paid = row.Cap, row.Expiry.Time, row.Paid
		if room, ok := ch.Cap.Sub(max(ch.Paid, ch.Spent)); !ok || room < leastUnits*to.offer.Price {
			continue
		}
		return ch, nil
	}
	if given {
		if err := c.patient(to.node, true); err != nil {
			return channelState{}, err
		}
	}
	ch, err := c.openChannel(ctx, to, own, left)
	if err != nil {
		return ch, err
	}
	c.mu.Lock()
	i := slices.IndexFunc(c.channels, func(o channelState) bool { return o.Channel == ch.Channel })
	if i >= 0 { // both who began a session and who looks ahead wished for it
		ch = c.channels[i]
	}
	c.mu.Unlock()
	if i >= 0 {
		return ch, nil
	}
	return ch, c.remember(ch, true)
}

// bounded keeps what a channel may cost within what may be spent.
func (c *Client) bounded(ch channelState) channelState {
	left, _ := c.spare()
	left /= top.Amount(c.cfg.Hops) // each may use it up
	if most, ok := max(ch.Paid, ch.Spent).Add(left); ok {
		ch.Cap = min(ch.Cap, most)
	}
	return ch
}

func (c *Client) openChannel(ctx context.Context, to target, own bool, left top.Amount) (ch channelState, err error) {
	most := cmp.Or(c.cfg.Cap, defaultCap)
	if most < leastUnits*to.offer.Price {
		return ch, top.Errorf(top.Denied, "a channel of %s TOP has no room at exit %s, which asks %s for 64 KiB (more: --cap)", most, to.name, to.offer.Price)
	}
	key, q, err := c.wish(to, own, min(most, left))
	if err != nil {
		return ch, err
	}
	ch = channelState{Node: to.node, Payer: c.address, Hop: own}
	state, text, wait := "", "", top.Count(channelWait.Milliseconds())
	if own {
		var p api.Payer
		if p, err = c.cfg.Wallet.OpenPayer(ctx, api.PayerWish{ID: q.ID, Service: Service, Node: to.node, Cap: q.Cap, LastsMs: q.LastsMs, WaitMs: wait}); p.Channel != nil {
			ch.Channel, ch.Payer = *p.Channel, p.Address
		}
		state, text = p.State, cmp.Or(p.Message, p.State)
	} else {
		var p api.Payment
		if p, err = c.cfg.Wallet.Spend(ctx, api.Spend{ID: q.ID, Kind: "open", To: to.owner, Amount: q.Cap, LastsMs: q.LastsMs, Service: Service, WaitMs: wait}); p.Channel != nil && p.State == "final" {
			ch.Channel = *p.Channel
		} else if err == nil {
			text = p.Text()
		}
		state = p.State
	}
	open := err == nil && !ch.Channel.IsZero()
	if open || err == nil && state == "failed" || err != nil && !waits(err) {
		err = cmp.Or(err, c.wished(key))
	}
	switch {
	case err != nil:
		return ch, c.wanting(to, q.Cap, err)
	case !open:
		return ch, top.Errorf(top.Failed, "open a channel to exit %s: %s", to.name, text)
	}
	row, err := c.cfg.Chain.Channel(ctx, ch.Channel)
	if err != nil {
		return ch, err
	}
	ch.Cap, ch.Expiry, ch.Paid, ch.Seq = row.Cap, row.Expiry.Time, row.Paid, uint64(row.Seq)
	return ch, nil
}

// wanting says what channels a tunnel wants, where the wallet opens none.
func (c *Client) wanting(to target, most top.Amount, err error) error {
	if !errors.Is(err, top.ErrDenied) {
		return err
	}
	all, _ := most.Mul(uint64(c.cfg.Hops))
	if c.cfg.Hops < 2 {
		return fmt.Errorf("open a channel of %s TOP to exit %s: %w; with less: --cap", most, to.name, err)
	}
	return fmt.Errorf("open a channel of %s TOP to hop %s: %w; %d hops want such a channel each, together %s TOP and fees (budget: top-wallet budget set --service vpn --per-day %[5]s); with less: --cap", most, to.name, err, c.cfg.Hops, all)
}

// after is a channel once it is known what claims on it come to.
func after(ch channelState, claims []session.Claim) (channelState, error) {
	for _, c := range claims {
		owed, err := c.Owed()
		if err != nil {
			return ch, err
		}
		if err := c.Verify(ch.Payer, 0); err != nil {
			return ch, err
		}
		ch.Seq, ch.Spent = max(ch.Seq, c.Voucher.Seq), max(ch.Spent, owed)
	}
	return ch, nil
}

// waits says whether what was asked for may come yet.
func waits(err error) bool {
	return errors.Is(err, top.ErrOffline) || errors.Is(err, top.ErrTimeout) || errors.Is(err, top.ErrBusy) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// A wish is a channel that the wallet was asked to open, until it is known what became of
// it: to ask again by the same name opens no second one.
type wish struct {
	ID      string
	Cap     top.Amount
	LastsMs top.Count
}

// wish is the one that waits for an exit, or a new one, which is on disk before it is
// uttered.
func (c *Client) wish(to target, own bool, most top.Amount) (key string, w wish, err error) {
	if key = to.node.String(); own {
		key += " hop"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok := c.wishes[key]; ok {
		return key, w, nil
	}
	var id [8]byte
	rand.Read(id[:])
	w = wish{"vpn-" + hex.EncodeToString(id[:]), most, top.Count(cmp.Or(c.cfg.Lasts, defaultLasts).Milliseconds())}
	if c.wishes == nil {
		c.wishes = map[string]wish{}
	}
	c.wishes[key] = w
	return key, w, c.saveWishesLocked()
}

// wished lets go of a wish whose end is known.
func (c *Client) wished(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wishes, key)
	return c.saveWishesLocked()
}

func (c *Client) wishesPath() string { return c.cfg.Home.Path("vpn", "wishes.json") }

func (c *Client) saveWishesLocked() error {
	if c.release == nil {
		return nil // this home's file is another's
	}
	b, err := json.Marshal(c.wishes)
	if err != nil {
		return fmt.Errorf("write %s: %w", c.wishesPath(), err)
	}
	return home.WriteFile(c.wishesPath(), b, 0o600)
}
