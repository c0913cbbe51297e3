package main

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

func upVerb() tool.Verb {
	return tool.Verb{
		Name: "up", Summary: "bring a tunnel up, and pay for it until it is brought down", Serve: true,
		Doc: `Runs in the foreground until SIGINT, SIGTERM or "top-vpn down". With --socks it is a proxy
(SOCKS5 and HTTP CONNECT) and needs no root; without, it makes a kernel interface, routes
everything through it, answers names through it, and closes every other way out: that
kill switch stays when this process is killed, and "top-vpn down --force" lifts it.

It needs the chain daemon and the wallet agent of the same home, and a budget:
  top-wallet budget set --service vpn --per-day 1
A home has one tunnel, whatever --sock says; another wants a --home of its own, with the
--chain-sock and --wallet-sock of this one.

Without --via it takes the exit that answers fastest and that this home saw fail least.
When an exit fails it goes on with another, and nothing leaves beside the tunnel
meanwhile. With --hops every hop is paid by a key of its own and sees its neighbours
alone; only three exits, to be the entry, are measured, and no other is sent anything from
this machine's address. What the chain still shows is said in status.

Around the whole machine nothing goes beside the tunnel but to the peers of the chain daemon:
a channel cannot be opened without them, and what a tunnel stands still for want of cannot
come through it. They are read from that daemon, each one address and one port, and status
names them. --spare-none closes that too, and wants a channel that is open.`,
		Flags: []tool.Flag{
			{Name: "socks", Help: "HOST:PORT of the proxy, such as 127.0.0.1:1080; a port 0 takes a free one"},
			{Name: "tun", Help: "name of the kernel interface (default top0, without --socks)"},
			{Name: "tun-fd", Kind: tool.Int, Help: "use the TUN on this descriptor; addresses and routes are yours"},
			{Name: "via", Kind: tool.Strings, Help: "an exit: name, topnode1… or wg://…; may repeat: others to go on with, or with --hops each hop, the entry first; - reads them from standard input"},
			{Name: "best", Kind: tool.Bool, Help: "take the best exit within --max-price (what happens without --via)"},
			{Name: "hops", Kind: tool.Int, Help: "nodes that the tunnel goes through, 1 to 3 (default 1); of three the second must be met by IPv4"},
			{Name: "carry", Help: "to the entry: plain, quic (HTTP/3) or wss (TLS websocket)", Default: "plain"},
			{Name: "max-price", Kind: tool.Amount, Help: "TOP for 64 KiB, at most"},
			{Name: "max-spend", Kind: tool.Amount, Help: "TOP for this tunnel, all hops, at most"},
			{Name: "cap", Kind: tool.Amount, Help: "TOP locked in a channel that is opened", Default: "0.5"},
			{Name: "for", Kind: tool.Duration, Help: "how long such a channel lasts", Default: "24h"},
			{Name: "include", Kind: tool.Strings, Help: "only this prefix through the tunnel; may repeat"},
			{Name: "exclude", Kind: tool.Strings, Help: "this prefix beside the tunnel; may repeat"},
			{Name: "allow-lan", Kind: tool.Bool, Help: "reach private addresses beside the tunnel"},
			{Name: "spare-none", Kind: tool.Bool, Help: "nothing beside the tunnel, not even to the chain daemon's peers"},
			{Name: "no-kill-switch", Kind: tool.Bool, Help: "let packets out while the tunnel is down"},
			sockFlag(), daemon.ChainFlag(), daemon.WalletFlag(),
		},
		Examples: []string{
			"top-vpn up --socks 127.0.0.1:1080 & curl -x socks5h://127.0.0.1:1080 https://example.org",
			"top-vpn up --best --max-price 0.000002 --max-spend 0.1",
			"top-vpn up --hops 2 --socks 127.0.0.1:1080",
			"top-vpn up --via exit1 --carry wss --allow-lan",
		},
		Run: up,
	}
}

func up(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	if err := checkUp(c); err != nil {
		return err
	}
	cfg := vpn.ClientConfig{
		Home: dir, Sock: c.String("sock"), Hops: c.Int("hops"), Carry: c.String("carry"), MaxPrice: c.Amount("max-price"), MaxSpend: c.Amount("max-spend"),
		Cap: c.Amount("cap"), Lasts: c.Duration("for"), Socks: c.String("socks"), TUN: c.String("tun"), AllowLAN: c.Bool("allow-lan"),
		KillSwitch: !c.Bool("no-kill-switch"), SpareNone: c.Bool("spare-none"), Ready: c.Ready, Log: c.Log,
	}
	if cfg.Via, err = viaOf(c); err != nil {
		return err
	}
	if cfg.Include, err = prefixes("--include", c.Strings("include")); err != nil {
		return err
	}
	if cfg.Exclude, err = prefixes("--exclude", c.Strings("exclude")); err != nil {
		return err
	}
	switch fd := c.Int("tun-fd"); {
	case fd > 0:
		cfg.TUNFile = os.NewFile(uintptr(fd), "tun")
	case cfg.Socks == "" && cfg.TUN == "":
		cfg.TUN = "top0"
	}
	if cfg.Chain, err = daemon.Chain(c); err != nil {
		return err
	}
	if cfg.Wallet, err = daemon.Wallet(c); err != nil {
		return err
	}
	v, err := vpn.NewClient(cfg)
	if err != nil {
		return err
	}
	return v.Run(ctx)
}

// checkUp refuses flags that contradict each other.
func checkUp(c *tool.Call) error {
	socks, tun, fd := c.String("socks") != "", c.String("tun") != "", c.Int("tun-fd") > 0
	switch {
	case socks && tun:
		return top.Errorf(top.Usage, "--socks or --tun, not both")
	case fd && (socks || tun):
		return top.Errorf(top.Usage, "--tun-fd is in the place of --socks and --tun")
	case c.Bool("best") && len(c.Strings("via")) > 0:
		return top.Errorf(top.Usage, "--best chooses, --via names: not both")
	case c.Int("hops") < 0:
		return top.Errorf(top.Usage, "--hops %d: 1 to 3", c.Int("hops"))
	}
	return nil
}

// viaOf reads the exits that are named, from standard input too: records or lines.
func viaOf(c *tool.Call) (all []string, err error) {
	for _, s := range c.Strings("via") {
		for _, s := range strings.Split(s, ",") {
			if s == "-" {
				before := len(all)
				for lines := bufio.NewScanner(c.In); lines.Scan(); {
					if line := strings.TrimSpace(lines.Text()); line != "" {
						all = append(all, vpn.ExitOf(line))
					}
				}
				if len(all) == before { // not any exit: what chose them found none
					return nil, top.Errorf(top.NotFound, "--via -: no exit came on standard input (look: top-vpn exits)")
				}
				continue
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func prefixes(flag string, texts []string) (all []netip.Prefix, err error) {
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if a, bad := netip.ParseAddr(s); err != nil && bad == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return nil, top.Errorf(top.Usage, "%s %q: want a prefix, such as 10.0.0.0/8", flag, s)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// runs says whether a tunnel's process answers, or holds its socket still: until then
// no other may begin.
func runs(ctx context.Context, c *tool.Call, v *api.VPN) bool {
	if _, gone := v.Status(ctx); gone == nil {
		return true
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return false
	}
	path, err := dir.SockOr(c.String("sock"), "vpn")
	if err != nil {
		return false
	}
	release, err := home.Lock(path + ".lock")
	if err == nil {
		release()
	}
	return errors.Is(err, top.ErrBusy)
}

func downVerb() tool.Verb {
	return tool.Verb{
		Name: "down", Summary: "bring the tunnel down; --force lifts a kill switch that was left behind",
		Doc: `Ends the tunnel of this home and gives the network back as it was. When its process was
killed the kill switch still stands, and nothing leaves this machine: --force lifts it,
with all that tunnels left (root).`,
		Flags:    []tool.Flag{{Name: "force", Kind: tool.Bool, Help: "lift what is left without asking anybody"}, sockFlag()},
		Records:  []string{"vpn-status"},
		Examples: []string{"top-vpn down", "top-vpn down --force"},
		Run: func(ctx context.Context, c *tool.Call) error {
			v, err := dialVPN(c)
			if err != nil {
				return err
			}
			s := api.VPNStatus{Type: "vpn-status", Role: "client", State: "down", Version: top.Version}
			err = v.Down(ctx)
			if err == nil {
				for ctx.Err() == nil && runs(ctx, c, v) { // until it has given everything back
					time.Sleep(20 * time.Millisecond)
				}
			}
			if c.Bool("force") {
				names, lifted := vpn.Lift()
				if lifted != nil {
					return lifted
				}
				for _, n := range names {
					c.Info("lifted what was left of %s", n)
				}
				err = nil
			}
			if err != nil {
				if left, _ := vpn.KillSwitches(); len(left) > 0 {
					return top.Errorf(top.Offline, "no tunnel runs, and the kill switch of %s stands (lift it: top-vpn down --force)", strings.Join(left, ", "))
				}
				return err
			}
			return c.Emit(s, "down")
		},
	}
}
