package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

func serveVerb() tool.Verb {
	return tool.Verb{
		Name: "serve", Summary: "sell an exit", Serve: true,
		Doc: `Runs in the foreground until SIGINT or SIGTERM. Without root it connects for its clients
in user space; with --tun it makes a kernel interface and forwards by nftables; with
--tun-fd it uses one that was handed over: its addresses, NAT and firewall belong to whoever
did, and so do the class and the rules of the policy, which nothing else enforces then.
Without --tun-fd private addresses, the exit's own network and other clients are never
reached through it, nor SMTP unless the policy says so.

A policy is a file:
  class full               # or category, or allowlist
  category web mail        # of class category
  93.184.216.0/24:80,443   # of class allowlist
  example.org:443
  refuse 198.51.100.0/24
  smtp                     # TCP port 25 too

Register what it offers and where it is (the addresses are in "top-vpn status"):
  top-wallet register --offer service=vpn,unit=64KiB,price=0.000001,window=4096 --addr ADDR --capacity 100000`,
		Flags: []tool.Flag{
			{Name: "provide", Kind: tool.Bool, Help: "sell it: without this flag nothing is served"},
			{Name: "listen", Help: "HOST:PORT: the UDP port, and the name or address by which others reach it", Default: ":51820"},
			{Name: "tun", Help: "make this kernel interface and forward by nftables (root)"},
			{Name: "tun-fd", Kind: tool.Int, Help: "use the TUN on this descriptor; addresses and firewall are yours"},
			{Name: "policy", Help: "file that says what is served (default: class full)"},
			{Name: "class", Help: "shorter than a policy: full, or category with --category"},
			{Name: "category", Kind: tool.Strings, Help: "web, mail, chat, call, dns, vpn, …; may repeat, of class category"},
			{Name: "region", Help: "where it stands, such as de: your word for it"},
			{Name: "hidden", Help: "HOST:PORT of hidden carriage, such as :443: HTTP/3 and a TLS websocket behind a web server"},
			{Name: "carry", Kind: tool.Strings, Help: "quic or wss: the kinds of hidden carriage (default: both)"},
			{Name: "server-name", Help: "name in TLS of hidden carriage"},
			{Name: "tls-cert", Help: "certificate of it, PEM (default: self-made)"},
			{Name: "tls-key", Help: "and its key"},
			{Name: "cover", Help: "what a browser sees there: a directory, or the URL of a site (default: a small site)"},
			{Name: "resolver", Kind: tool.Strings, Help: "ADDR:PORT that answers names (default: those of /etc/resolv.conf); may repeat"},
			{Name: "mtu", Kind: tool.Int, Help: "of packets within the tunnel (default 1420)"},
			{Name: "peers", Kind: tool.Int, Help: "clients at once (default 1024)"},
			{Name: "allow-loopback", Kind: tool.Bool, Help: "serve this machine's own addresses too: for tests; every status shows it"},
			{Name: "node-key", Help: "the node's key (default HOME/keys/node.key)"},
			{Name: "sock", Help: "where to answer (default HOME/run/vpn.sock)"}, daemon.ChainFlag(),
		},
		Examples: []string{
			"top-vpn serve --provide --listen vpn.example.org:51820 --region de",
			"top-vpn serve --provide --tun top0 --class category --category web --hidden :443",
		},
		Run: serve,
	}
}

func serve(ctx context.Context, c *tool.Call) error {
	if !c.Bool("provide") {
		return top.Errorf(top.Usage, "nothing to serve (sell an exit: --provide; use one: top-vpn up)")
	}
	if err := checkServe(c); err != nil {
		return err
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	cfg := vpn.ExitConfig{
		Home: dir, Sock: c.String("sock"), TUN: c.String("tun"), Region: c.String("region"), AllowLoopback: c.Bool("allow-loopback"),
		MTU: c.Int("mtu"), Peers: c.Int("peers"), Ready: c.Ready, Log: c.Log,
	}
	if cfg.NodeKey, err = home.NodeKey(dir, c.String("node-key")); err != nil {
		return err
	}
	if cfg.Host, cfg.Listen, err = hostPort(c.String("listen")); err != nil {
		return err
	}
	if fd := c.Int("tun-fd"); fd > 0 {
		cfg.TUNFile = os.NewFile(uintptr(fd), "tun")
	}
	if cfg.Policy, err = policyOf(c); err != nil {
		return err
	}
	if cfg.Hidden, err = hiddenOf(c); err != nil {
		return err
	}
	for _, s := range c.Strings("resolver") {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			return top.Errorf(top.Usage, "--resolver %q: want ADDR:PORT", s)
		}
		cfg.Resolver = append(cfg.Resolver, a)
	}
	if cfg.Chain, err = daemon.Chain(c); err != nil {
		return err
	}
	e, err := vpn.NewExit(cfg)
	if err != nil {
		return err
	}
	return e.Run(ctx)
}

// checkServe refuses flags that contradict each other, or that nothing would heed.
func checkServe(c *tool.Call) error {
	switch {
	case c.String("tun") != "" && c.Int("tun-fd") > 0:
		return top.Errorf(top.Usage, "--tun or --tun-fd, not both")
	case c.String("policy") != "" && (c.String("class") != "" || len(c.Strings("category")) > 0):
		return top.Errorf(top.Usage, "--policy says the class: no --class or --category beside it")
	case strings.ContainsFunc(c.String("region"), func(r rune) bool { return r <= ' ' || r > '~' }):
		return top.Errorf(top.Usage, "--region %q: one word of ASCII, such as de", c.String("region"))
	case (c.String("tls-cert") == "") != (c.String("tls-key") == ""):
		return top.Errorf(top.Usage, "--tls-cert and --tls-key go together")
	}
	if c.String("hidden") == "" {
		for _, flag := range []string{"server-name", "tls-cert", "cover"} {
			if c.String(flag) != "" {
				return top.Errorf(top.Usage, "--%s is of hidden carriage (open it: --hidden :443)", flag)
			}
		}
		if len(c.Strings("carry")) > 0 {
			return top.Errorf(top.Usage, "--carry is of hidden carriage (open it: --hidden :443)")
		}
	}
	return nil
}

// hostPort reads HOST:PORT, where either may be empty.
func hostPort(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	n, bad := strconv.ParseUint("0"+p, 10, 16)
	if err != nil || bad != nil {
		return "", 0, top.Errorf(top.Usage, "--listen %q: want HOST:PORT, or :PORT", s)
	}
	return host, uint16(n), nil
}

// policyOf reads what is served.
func policyOf(c *tool.Call) (*vpn.Policy, error) {
	if path := c.String("policy"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, top.Errorf(top.NotFound, "--policy: %v", err)
		}
		return vpn.ParsePolicy(string(text))
	}
	text := "class full\n"
	if class := c.String("class"); class != "" {
		text = "class " + class + "\n"
	}
	for _, k := range c.Strings("category") {
		text += "category " + k + "\n"
	}
	return vpn.ParsePolicy(text)
}

// hiddenOf reads how the exit hides.
func hiddenOf(c *tool.Call) (h vpn.Hidden, err error) {
	h = vpn.Hidden{Listen: c.String("hidden"), ServerName: c.String("server-name")}
	for _, k := range c.Strings("carry") {
		switch k {
		case vpn.QUIC:
			h.QUIC = true
		case vpn.WSS:
			h.WSS = true
		default:
			return h, top.Errorf(top.Usage, "--carry %s: quic or wss", k)
		}
	}
	if cert := c.String("tls-cert"); cert != "" {
		if h.Certificate, err = tls.LoadX509KeyPair(cert, c.String("tls-key")); err != nil {
			return h, top.Errorf(top.Invalid, "--tls-cert: %v (both --tls-cert and --tls-key, PEM)", err)
		}
	}
	h.Cover, err = vpn.CoverOf(c.String("cover"), c.Log)
	return h, err
}
