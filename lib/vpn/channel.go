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
	b, err := os.ReadFile(c.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c.channels)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", c.statePath(), err)
	}
	return nil
}

// remember notes a voucher's number before it is signed, and writes it when it should.
// After a crash the exit shows the newest, and the wallet signs no number twice.
func (c *Client) remember(ch channelState, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
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
	for _, ch := range slices.Backward(known) {
		if ch.Node != to.node || ch.Hop != own || ch.Channel == not {
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
	ch, err := c.openChannel(ctx, to, own, left)
	if err != nil {
		return ch, err
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
	want := min(most, left)
	lasts := cmp.Or(c.cfg.Lasts, defaultLasts)
	var id [8]byte
	rand.Read(id[:])
	wish := "vpn-" + hex.EncodeToString(id[:])
	ch = channelState{Node: to.node, Payer: c.address, Hop: own}
	if own {
		p, err := c.cfg.Wallet.OpenPayer(ctx, api.PayerWish{ID: wish, Service: Service, Node: to.node, Cap: want, LastsMs: top.Count(lasts.Milliseconds()), WaitMs: top.Count(channelWait.Milliseconds())})
		if err != nil {
			return ch, err
		}
		if p.Channel == nil {
			return ch, top.Errorf(top.Failed, "open a channel to exit %s: %s", to.name, cmp.Or(p.Message, p.State))
		}
		ch.Channel, ch.Payer = *p.Channel, p.Address
	} else {
		pay, err := c.cfg.Wallet.Spend(ctx, api.Spend{
			ID: wish, Kind: "open", To: to.owner, Amount: want, LastsMs: top.Count(lasts.Milliseconds()), Service: Service, WaitMs: top.Count(channelWait.Milliseconds()),
		})
		if err != nil {
			return ch, err
		}
		if pay.State != "final" || pay.Channel == nil {
			return ch, top.Errorf(top.Failed, "open a channel to exit %s: %s", to.name, pay.Text())
		}
		ch.Channel = *pay.Channel
	}
	row, err := c.cfg.Chain.Channel(ctx, ch.Channel)
	if err != nil {
		return ch, err
	}
	ch.Cap, ch.Expiry, ch.Paid, ch.Seq = row.Cap, row.Expiry.Time, row.Paid, uint64(row.Seq)
	return ch, nil
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
