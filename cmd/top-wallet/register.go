package main

import (
	"context"
	"strconv"
	"strings"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/tool"
	"top/lib/top"
)

func registerVerb() tool.Verb {
	return tool.Verb{
		Name: "register", Summary: "enter this account's node in the registry, or change its row",
		Doc: `The node key then claims what channels pay this account; it can credit the account
and spend nothing. An offer is key=value pairs:
  service=relay,unit=message,price=0.00001,window=16,hold=3600x1,hold=86400x3
where price is TOP for one unit, window the largest credit in units, and hold a
tier of keeping: seconds x factor.`,
		Flags: append(spendFlags(),
			tool.Flag{Name: "name", Help: "of the node, at most 32 bytes"},
			tool.Flag{Name: "addr", Kind: tool.Strings, Help: "where the node is reached; may repeat"},
			tool.Flag{Name: "offer", Kind: tool.Strings, Help: "what it sells; may repeat"},
			tool.Flag{Name: "capacity", Kind: tool.Int, Help: "claimed, kbit/s"},
			tool.Flag{Name: "stake", Kind: tool.Amount, Help: "locked while registered, TOP"},
			tool.Flag{Name: "node-key", Help: "the node key (default HOME/keys/node.key)"},
			tool.Flag{Name: "remove", Kind: tool.Bool, Help: "take the node out of the registry"},
			daemon.ChainFlag()),
		Records: []string{"payment", "signed-tx"},
		Examples: []string{
			"top-wallet register --name paris-1 --offer service=vpn,unit=64KiB,price=0.000001,window=4096",
			"top-wallet register --remove",
		},
		Run: register,
	}
}

func register(ctx context.Context, c *tool.Call) error {
	if c.Bool("remove") {
		return spend(ctx, c, api.Spend{Kind: "unregister"})
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	me, err := self(c)
	if err != nil {
		return err
	}
	node, err := home.NodeKey(dir, c.String("node-key"))
	if err != nil {
		return err
	}
	if c.Int("capacity") < 0 {
		return top.Errorf(top.Usage, "--capacity wants a count of kbit/s")
	}
	n := &api.NodeOffer{Name: c.String("name"), Addrs: c.Strings("addr"), Capacity: top.Count(c.Int("capacity")), Stake: c.Amount("stake")}
	for _, s := range c.Strings("offer") {
		o, err := parseOffer(s)
		if err != nil {
			return err
		}
		n.Offers = append(n.Offers, o)
	}
	chain, err := daemon.Chain(c)
	if err != nil {
		return err
	}
	p, err := chain.Params(ctx)
	if err != nil {
		return err
	}
	var r ledger.Register
	if err := r.SignNode(node.Signer(), p.Chain, me.Address); err != nil {
		return err
	}
	n.Node, n.NodeSig = r.Node, r.NodeSig[:]
	return spend(ctx, c, api.Spend{Kind: "register", Node: n})
}

// parseOffer reads the key=value pairs of --offer.
func parseOffer(s string) (o api.Offer, err error) {
	bad := func(why string) (api.Offer, error) {
		return o, top.Errorf(top.Usage, "--offer %q: %s (as in service=vpn,unit=64KiB,price=0.000001,window=4096)", s, why)
	}
	for _, pair := range strings.Split(s, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return bad("want key=value pairs")
		}
		switch k {
		case "service":
			o.Service = v
		case "unit":
			o.Unit = v
		case "price":
			o.Price, err = top.ParseAmount(v)
		case "window":
			var n uint64
			n, err = strconv.ParseUint(v, 10, 32)
			o.Window = uint32(n)
		case "hold":
			sec, factor, ok := strings.Cut(v, "x")
			a, err1 := strconv.ParseUint(sec, 10, 64)
			b, err2 := strconv.ParseUint(factor, 10, 32)
			if !ok || err1 != nil || err2 != nil {
				return bad("hold wants SECONDSxFACTOR")
			}
			o.Hold = append(o.Hold, api.Hold{Seconds: top.Count(a), Factor: uint32(b)})
		default:
			return bad("no such key: " + k)
		}
		if err != nil {
			return bad(k + ": " + v)
		}
	}
	if o.Service == "" || o.Unit == "" || o.Window == 0 {
		return bad("service, unit and window are needed")
	}
	return o, nil
}
