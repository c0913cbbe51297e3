package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"rsc.io/qr"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

func configVerb() tool.Verb {
	return tool.Verb{
		Name: "config", Summary: "let a stock WireGuard client use an exit: write its wg-quick file, or a QR code for a phone",
		Doc: `Makes a key pair for the client, opens one small channel to the exit, prepays, and prints
what wg-quick or a phone's WireGuard app reads. The exit serves that client while the
channel's money lasts, and nobody need run here meanwhile. A stock client acknowledges
nothing: what it used is the exit's own count, every bill marks it unverified, and what
was prepaid is all that can be lost. To risk less, prepay little and keep it paid a step
at a time with "top-vpn lend".`,
		Flags: []tool.Flag{
			{Name: "exit", Help: "name, topnode1… or wg://…"},
			{Name: "prepay", Kind: tool.Amount, Help: "TOP given at once", Default: "0.01"},
			{Name: "cap", Kind: tool.Amount, Help: "TOP locked in the channel, for lend to go on with (default: what is prepaid)"},
			{Name: "for", Kind: tool.Duration, Help: "how long the channel lasts", Default: "30d"},
			{Name: "key", Help: "the client's public key, where it made its own: the private key then stands nowhere here"},
			{Name: "qr", Kind: tool.Bool, Help: "print a QR code for the terminal instead"},
			{Name: "output", Short: "o", Help: "write to this file, readable by its owner alone"},
			daemon.ChainFlag(), daemon.WalletFlag(),
		},
		Records: []string{"vpn-peer"},
		Examples: []string{
			"top-vpn config --exit exit1 --prepay 0.05 -o phone.conf && wg-quick up ./phone.conf",
			"top-vpn config --exit exit1 --qr",
		},
		Run: config,
	}
}

func config(ctx context.Context, c *tool.Call) error {
	cfg, err := lendConfig(c)
	if err != nil {
		return err
	}
	if c.JSON && c.String("key") == "" && c.String("output") == "" {
		return top.Errorf(top.Usage, "a record holds no private key (write it with -o FILE, or give the client's own public key: --key)")
	}
	if c.Amount("prepay") == 0 {
		return top.Errorf(top.Usage, "--prepay 0 buys nothing: the exit serves what is prepaid (say how much: --prepay 0.01)")
	}
	key, secret, err := vpn.ClientKey(c.String("key"))
	if err != nil {
		return err
	}
	cfg.Key, cfg.Prepay, cfg.Cap, cfg.Lasts = key, c.Amount("prepay"), max(c.Amount("cap"), c.Amount("prepay")), c.Duration("for")
	l, err := vpn.NewLender(ctx, cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	p := l.Peer()
	if !c.Bool("qr") && c.String("output") == "" && secret != "" {
		c.Info("what follows holds a private key (-o FILE: readable by its owner alone)")
	}
	c.Info("%s TOP prepaid on channel %s; keep it paid: top-vpn lend --channel %s --key %s --exit '%s'", p.Prepaid, p.Channel.Short(), p.Channel, p.Key, c.String("exit"))
	if c.JSON {
		if err := c.Emit(p, ""); err != nil || c.String("output") == "" {
			return err
		}
	}
	text := wgQuick(p, secret)
	return c.Output(func(w io.Writer) error {
		if c.Bool("qr") {
			_, text, _ := strings.Cut(text, "\n") // the first line is for people
			return drawQR(w, text)
		}
		_, err := io.WriteString(w, text)
		return err
	})
}

// wgQuick is the file that wg-quick(8) and WireGuard's apps read.
func wgQuick(p api.VPNPeer, secret string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# channel %s, prepaid %s TOP\n[Interface]\n", p.Channel, p.Prepaid)
	if secret == "" {
		secret = "(the key that you made)"
	}
	fmt.Fprintf(&b, "PrivateKey = %s\nAddress = %s\nDNS = %s\nMTU = %d\n\n", secret, strings.Join(p.Inner, ", "), strings.Join(p.DNS, ", "), p.MTU)
	fmt.Fprintf(&b, "[Peer]\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n", p.Exit, p.At)
	return b.String()
}

// drawQR draws a code in half blocks, dark on light, with the quiet zone that ISO
// 18004 asks for.
func drawQR(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return top.Errorf(top.Invalid, "QR code: %v", err)
	}
	const quiet = 4
	for y := -quiet; y < code.Size+quiet; y += 2 {
		var line strings.Builder
		for x := -quiet; x < code.Size+quiet; x++ {
			switch up, down := code.Black(x, y), code.Black(x, y+1); {
			case up && down:
				line.WriteRune(' ')
			case up:
				line.WriteRune('▄')
			case down:
				line.WriteRune('▀')
			default:
				line.WriteRune('█')
			}
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

func lendVerb() tool.Verb {
	return tool.Verb{
		Name: "lend", Summary: "keep a stock WireGuard client paid from this wallet, a step at a time", Serve: false,
		Doc: `Looks once a second at what the exit has counted for the client, and pays one step more
when less than half of one is left: what a lying exit can take is one step. Goes on until
it is interrupted, or the channel is used up.`,
		Flags: []tool.Flag{
			{Name: "exit", Help: "name, topnode1… or wg://…"},
			{Name: "key", Help: "the client's public key"},
			{Name: "channel", Help: "that top-vpn config opened (default: open another)"},
			{Name: "step", Kind: tool.Amount, Help: "TOP given at a time", Default: "0.01"},
			{Name: "cap", Kind: tool.Amount, Help: "TOP locked in a channel that is opened", Default: "0.5"},
			{Name: "for", Kind: tool.Duration, Help: "how long it lasts", Default: "30d"},
			{Name: "once", Kind: tool.Bool, Help: "look once, pay if it is time, and end"},
			daemon.ChainFlag(), daemon.WalletFlag(),
		},
		Records: []string{"vpn-peer"}, Examples: []string{"top-vpn lend --exit exit1 --key KEY --channel CHANNEL --step 0.01"},
		Run: lend,
	}
}

func lend(ctx context.Context, c *tool.Call) error {
	cfg, err := lendConfig(c)
	if err != nil {
		return err
	}
	if c.String("key") == "" {
		return top.Errorf(top.Usage, "whom? (--key, as top-vpn config said)")
	}
	if cfg.Key, _, err = vpn.ClientKey(c.String("key")); err != nil {
		return err
	}
	if s := c.String("channel"); s != "" {
		if cfg.Channel, err = top.ParseID(s); err != nil {
			return err
		}
	}
	cfg.Cap, cfg.Lasts = c.Amount("cap"), c.Duration("for")
	l, err := vpn.NewLender(ctx, cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	errOnce := fmt.Errorf("once")
	err = l.Keep(ctx, c.Amount("step"), func(p api.VPNPeer) error {
		if err := c.Emit(p, "%s  paid %s TOP, used %s TOP, unverified", time.Now().Format(time.TimeOnly), p.Prepaid, p.Used); err != nil {
			return err
		}
		if c.Bool("once") {
			return errOnce
		}
		return nil
	})
	if err == errOnce {
		return nil
	}
	return err
}

// lendConfig is what config and lend share.
func lendConfig(c *tool.Call) (cfg vpn.LendConfig, err error) {
	if c.String("exit") == "" {
		return cfg, top.Errorf(top.Usage, "which exit? (--exit NAME; look: top-vpn exits)")
	}
	cfg.Exit = c.String("exit")
	if cfg.Home, err = daemon.Home(c); err != nil {
		return cfg, err
	}
	if cfg.Chain, err = daemon.Chain(c); err != nil {
		return cfg, err
	}
	cfg.Wallet, err = daemon.Wallet(c)
	return cfg, err
}
