package main

import (
	"context"
	"strconv"
	"strings"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/relay"
	"top/lib/tool"
	"top/lib/top"
)

func serveVerb() tool.Verb {
	return tool.Verb{
		Name: "serve", Summary: "send and receive messages; with --provide hold them for others", Serve: true,
		Doc: `Runs in the foreground until SIGINT or SIGTERM. It needs the chain daemon and the
wallet agent of the same home, and a budget to send ("top-wallet budget set --service
relay --per-day 1"). It publishes a mailbox record that names the relays by which
others reach this account.

With --provide it holds messages for others as well. Give it fixed ports, and register
what it offers and where it is (the address is in "top-relay status"):
  top-wallet register --offer service=relay,unit=message,price=0.00001,window=4096 --addr ADDR

A provider that others can reach is a hop for those behind NAT, who give --via and
register the address with /p2p-circuit/ that status then shows. A hop carries 128 KiB of
each circuit: enough to punch a hole, for which both ends have to --listen.`,
		Flags: []tool.Flag{
			{Name: "provide", Kind: tool.Bool, Help: "hold messages for others, and be paid when they have them"},
			{Name: "listen", Kind: tool.Strings, Help: "multiaddress to listen on; may repeat (default: none, but with --provide any port, TCP and QUIC)"},
			{Name: "via", Kind: tool.Strings, Help: "behind NAT: the address of a provider through which others meet this one; may repeat"},
			{Name: "relay", Kind: tool.Strings, Help: "a relay of this account's mailbox, topnode1…; may repeat (default: two of the registry)"},
			{Name: "quota", Help: "most that is held for others, in bytes or with K, M, G", Default: "10G"},
			{Name: "cap", Kind: tool.Amount, Help: "TOP locked in a channel to a relay that is paid", Default: "0.5"},
			{Name: "node-key", Help: "the node's key (default HOME/keys/node.key)"},
			{Name: "sock", Help: "where to answer (default HOME/run/relay.sock)"}, daemon.ChainFlag(), daemon.WalletFlag(),
		},
		Examples: []string{"top-relay serve", "top-relay serve --provide --listen /ip4/0.0.0.0/tcp/7001 --listen /ip4/0.0.0.0/udp/7001/quic-v1"},
		Run:      serve,
	}
}

func serve(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	cfg := relay.Config{Home: dir, Sock: c.String("sock"), Listen: c.Strings("listen"), Via: c.Strings("via"), Provide: c.Bool("provide"), Cap: c.Amount("cap"), Ready: c.Ready, Log: c.Log}
	if cfg.NodeKey, err = home.NodeKey(dir, c.String("node-key")); err != nil {
		return err
	}
	if cfg.Provide && len(cfg.Listen) == 0 {
		cfg.Listen = []string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"}
	}
	if cfg.Quota, err = parseBytes(c.String("quota")); err != nil {
		return err
	}
	for _, s := range c.Strings("relay") {
		id, err := top.ParseNodeID(s)
		if err != nil {
			return err
		}
		cfg.Relays = append(cfg.Relays, id)
	}
	if cfg.Chain, err = daemon.Chain(c); err != nil {
		return err
	}
	if cfg.Wallet, err = daemon.Wallet(c); err != nil {
		return err
	}
	d, err := relay.New(cfg)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// parseBytes reads a number of bytes, with K, M, G or T for powers of 1024.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToUpper(s), "KMGT")
	shift := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	by, ok := shift[strings.ToUpper(s)[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 63)
	if err != nil || !ok || n <= 0 || n > (1<<62)>>by {
		return 0, top.Errorf(top.Invalid, "%q: want a number of bytes, such as 500M or 10G", s)
	}
	return n << by, nil
}
