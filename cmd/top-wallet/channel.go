package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/session"
	"top/lib/settle"
	"top/lib/tool"
	"top/lib/top"
)

func openVerb() tool.Verb {
	return tool.Verb{
		Name: "open", Summary: "open a payment channel to a provider",
		Doc: `Locks CAP for one provider until the channel ends. What vouchers and ticks prove is
the provider's; the rest comes back. --service bounds it by that service's budget,
as a daemon's own request would be.`,
		Args: []tool.Arg{
			{Name: "PROVIDER", Help: "its address, or a contact's name"},
			{Name: "CAP", Help: "TOP, at most 9 decimals"},
		},
		Flags: spendFlags(
			tool.Flag{Name: "for", Kind: tool.Duration, Default: "24h", Help: "how long the channel lasts"},
			tool.Flag{Name: "service", Help: "count the cap against this service's budget"}),
		Records:  []string{"payment", "signed-tx"},
		Examples: []string{"top-wallet open bob 2 --for 12h"},
		Run: func(ctx context.Context, c *tool.Call) error {
			to, err := daemon.Resolve(c, c.Arg(0))
			if err != nil {
				return err
			}
			limit, err := amountArg(c, 1)
			if err != nil {
				return err
			}
			lasts := c.Duration("for")
			if lasts < time.Second {
				return top.Errorf(top.Usage, "--for %s: want a longer time", lasts)
			}
			return spend(ctx, c, api.Spend{
				Kind: "open", To: to, Amount: limit, LastsMs: top.Count(lasts.Milliseconds()), Service: c.String("service"),
			})
		},
	}
}

func channelsVerb() tool.Verb {
	return tool.Verb{
		Name: "channels", Summary: "the open channels of this account and its payer keys, from the chain",
		Flags: []tool.Flag{daemon.ChainFlag()}, Records: []string{"channel"},
		Examples: []string{"top-wallet channels", "top-wallet channels --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			id, err := self(c)
			if err != nil {
				return err
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			_, payers, err := payersHere(c)
			if err != nil {
				return err
			}
			emit := func(r api.Channel) error {
				way, other := "pays", r.Provider
				if r.Provider == id.Address {
					way, other = "paid by", r.Payer
				}
				text := fmt.Sprintf("%s  %s %s  %s of %s TOP paid, until %s", r.Channel, way, other, r.Paid, r.Cap, r.Expiry)
				if r.Closing {
					text += ", closing"
				}
				if r.PayerID != "" {
					text += ", by payer key " + r.PayerID
				}
				return c.Emit(r, "%s", text)
			}
			if err := chain.Channels(ctx, id.Address, emit); err != nil {
				return err
			}
			return payerChannels(ctx, chain, payers, emit)
		},
	}
}

// payerChannels calls emit with the channels of payer keys, marked with the key
// that pays.
func payerChannels(ctx context.Context, chain *api.Chain, payers []api.Payer, emit func(api.Channel) error) error {
	for _, p := range payers {
		if p.State == "swept" || p.Channel == nil {
			continue
		}
		r, err := chain.Channel(ctx, *p.Channel)
		if err != nil {
			return err
		}
		if r.PayerID = p.ID; r.Exists {
			if err := emit(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func channelArg(c *tool.Call) (top.ID, error) { return top.ParseID(c.Arg(0)) }

func closeVerb() tool.Verb {
	return tool.Verb{
		Name: "close", Summary: "close a channel, as its payer or its provider",
		Doc: `A provider's close is immediate and claims what HOME/receipts prove first; it needs
the node key alone. A payer's starts the deadline in which the provider may still
claim; after it, top-wallet reclaim returns the rest.`,
		Args: []tool.Arg{{Name: "CHANNEL", Help: "64 hex digits, as top-wallet channels shows them"}},
		Flags: append(spendFlags(daemon.ChainFlag()),
			tool.Flag{Name: "node-key", Help: "the provider's node key (default HOME/keys/node.key)"},
			tool.Flag{Name: "from", Help: "receipts to claim first, a file (default HOME/receipts)"}),
		Records:  []string{"payment", "settled", "signed-tx"},
		Examples: []string{"top-wallet close 6f1e…"},
		Run: func(ctx context.Context, c *tool.Call) error {
			id, err := channelArg(c)
			if err != nil {
				return err
			}
			me, err := self(c)
			if err != nil {
				return err
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			ch, err := chain.Channel(ctx, id)
			if err != nil {
				return err
			}
			switch {
			case !ch.Exists:
				return top.Errorf(top.NotFound, "there is no channel %s: closed, or never opened (proven at block %s)", id, ch.At.Height)
			case ch.Provider == me.Address:
				return closeAsProvider(ctx, c, chain, id)
			}
			return spend(ctx, c, api.Spend{Kind: "close", Channel: id})
		},
	}
}

// closeAsProvider closes by the node key, with the best claim among the receipts.
func closeAsProvider(ctx context.Context, c *tool.Call, chain *api.Chain, id top.ID) error {
	s, err := settlerOf(c, chain)
	if err != nil {
		return err
	}
	bill, err := readBill(c, c.String("from"))
	if err != nil && !errors.Is(err, top.ErrNotFound) {
		return err
	}
	var claim *session.Claim
	if bill != nil {
		for _, ch := range bill.bill.Channels() {
			if ch.Channel == id {
				claim = &ch.Claim
			}
		}
	}
	if c.Bool("dry-run") {
		c.Info("would close channel %s, with a claim: %t", id, claim != nil)
		return nil
	}
	r, err := s.Close(ctx, id, claim)
	if err != nil {
		return err
	}
	return c.Emit(r, "%s", r.Text())
}

// settlerOf is what claims and closes for this node.
func settlerOf(c *tool.Call, chain *api.Chain) (s settle.Settler, err error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return s, err
	}
	key, err := home.NodeKey(dir, c.String("node-key"))
	return settle.Settler{Chain: chain, Node: key, Wait: c.Duration("wait")}, err
}

func reclaimVerb() tool.Verb {
	return tool.Verb{
		Name: "reclaim", Summary: "take back what is left in a channel past its end",
		Args:  []tool.Arg{{Name: "CHANNEL", Help: "64 hex digits"}},
		Flags: spendFlags(), Records: []string{"payment", "signed-tx"},
		Examples: []string{"top-wallet reclaim 6f1e…"},
		Run: func(ctx context.Context, c *tool.Call) error {
			id, err := channelArg(c)
			if err != nil {
				return err
			}
			return spend(ctx, c, api.Spend{Kind: "reclaim", Channel: id})
		},
	}
}
