// Package netcfg is the host's network around a tunnel: addresses, routes, the
// resolver, the firewall. It speaks netlink and nftables to the kernel and runs
// no other program. It makes no interface and moves no packet: lib/vpn does.
//
// What it sets stands in the kernel and outlives the process that set it: a
// killed client leaks nothing, and Down or Stop, from any other process, takes it
// back. Everything carries the name of the interface: an nftables table
// top_vpn_NAME or top_exit_NAME, with comments that nft list prints, and a
// routing tables and rules whose numbers follow from the name. The calls act on
// the network namespace of the calling thread and need CAP_NET_ADMIN there.
//
//	NC1  from before the first route changes until Down ends nothing leaves
//	     outside the tunnel but what Tunnel allows, by IPv4, IPv6 or DNS,
//	     whatever happens to process, interface and exit meanwhile
//	NC2  every question to port 53 goes to the exit's resolver, whatever
//	     resolv.conf names
//	NC3  what Up and Serve set, Down and Stop take back, whoever set it
//	NC4  Up and Serve again change what is set in one step; the rest stays
//	NC5  an exit forwards new flows only from its clients to the outside: never
//	     to special or its own networks, another client or a mail port
//	NC6  what an exit allows can be narrowed and changed while it serves
package netcfg

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"top/lib/policy"
	"top/lib/top"
)

// A Tunnel is a client's way out.
type Tunnel struct {
	Name  string         // of an interface that is there: up to 15 of letters, digits, "_", "." and "-"
	Addrs []netip.Prefix // inner addresses; a family without one is refused, never sent outside
	MTU   int            // bytes; 0 leaves it

	// Mark is the fwmark (SO_MARK) of the outer sockets, not 0: what bears it goes
	// around the tunnel, and only to Endpoints, by UDP or TCP.
	Mark      uint32
	Endpoints []netip.AddrPort

	Include []netip.Prefix // what goes through the tunnel; none is everything
	Exclude []netip.Prefix // what does not; none of Include may lie within
	// Spare is what whoever runs here may reach directly, by TCP or UDP on that port alone.
	// Under a kill switch all else to that address is refused, not sent into the tunnel.
	Spare []netip.AddrPort
	// AllowLAN lets private, link-local and multicast addresses be reached directly.
	// Routes of the local network to any other address are not followed: a DHCP
	// server must not draw traffic out of the tunnel (CVE-2024-3661).
	AllowLAN bool

	// DNS are the exit's resolvers inside the tunnel: the first of each family
	// answers every question of that family; a family without one gets no answer.
	DNS []netip.Addr

	// KillSwitch refuses whatever would leave outside the tunnel, until Down. Without
	// it a tunnel that dies gives way to the network as it was before, but for DNS
	// and a family that was never in the tunnel: they stay refused until Down.
	KillSwitch bool
}

// An Exit is the other end: it forwards for its clients.
type Exit struct {
	Name  string         // of the interface, as in Tunnel
	Addrs []netip.Prefix // of the interface
	MTU   int            // bytes; 0 leaves it
	Inner []netip.Prefix // addresses of clients; what bears another is dropped
	// Local is what clients may ask of Addrs themselves, besides an echo: its
	// resolver, say. Each has a protocol of TCP or UDP.
	Local []policy.Ports
	// Policy says what is refused and served. A policy with Loopback opens
	// 127.0.0.0/8 of this host to clients, for tests.
	Policy *policy.Policy
}

func (e *Exit) check() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("exit %s: %s: %w", e.Name, fmt.Sprintf(format, args...), top.ErrInvalid)
	}
	switch {
	case e.Policy == nil:
		return bad("no policy")
	case len(e.Inner) == 0 || len(e.Addrs) == 0:
		return bad("no inner addresses")
	case e.MTU != 0 && (e.MTU < 576 || e.MTU > 65535):
		return bad("MTU %d, want 576 to 65535", e.MTU)
	}
	for _, p := range slices.Concat(e.Addrs, e.Inner) {
		if !p.IsValid() || p.Addr().Is4In6() || p.Bits() == 0 {
			return bad("prefix %s", p)
		}
	}
	for _, l := range e.Local {
		if l.Protocol != policy.TCP && l.Protocol != policy.UDP || l.First > l.Last {
			return bad("local service by %s on %d to %d", l.Protocol, l.First, l.Last)
		}
	}
	return nil
}

// within says whether the exit serves a family.
func (e *Exit) within(is4 bool) bool {
	return slices.ContainsFunc(e.Inner, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
}

// A State is what stands in the kernel under a name.
type State struct {
	Name       string
	Exit       bool      // set by Serve, else by Up
	Since      time.Time // when it was first set
	KillSwitch bool      // of a tunnel: refuses what would leave outside
	Alive      bool      // the interface is there
	Mark       uint32    // of a tunnel
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)

// checkName refuses what is no name of an interface, or would lead elsewhere in
// /proc/sys.
func checkName(name string) error {
	if !nameForm.MatchString(name) || name == "." || name == ".." || name == "all" || name == "default" {
		return fmt.Errorf("interface %q: want up to 15 letters, digits, _ . -: %w", name, top.ErrInvalid)
	}
	return nil
}

// check refuses what makes no sense, and spells addresses in one way.
func (t *Tunnel) check() error {
	if err := checkName(t.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("tunnel %s: %s: %w", t.Name, fmt.Sprintf(format, args...), top.ErrInvalid)
	}
	switch {
	case len(t.Addrs) == 0:
		return bad("no inner address")
	case t.Mark == 0:
		return bad("no mark for the outer sockets")
	case t.MTU != 0 && (t.MTU < 576 || t.MTU > 65535):
		return bad("MTU %d, want 576 to 65535", t.MTU)
	}
	for i, e := range t.Endpoints {
		if !e.IsValid() || e.Port() == 0 {
			return bad("endpoint %s", e)
		}
		t.Endpoints[i] = netip.AddrPortFrom(e.Addr().Unmap().WithZone(""), e.Port())
	}
	for i, s := range t.Spare {
		if !s.IsValid() || s.Port() == 0 {
			return bad("spared %s", s)
		}
		t.Spare[i] = netip.AddrPortFrom(s.Addr().Unmap().WithZone(""), s.Port())
	}
	for _, p := range slices.Concat(t.Addrs, t.Include, t.Exclude) {
		if !p.IsValid() || p.Addr().Is4In6() {
			return bad("prefix %s", p)
		}
	}
	for _, in := range t.Include {
		for _, ex := range t.Exclude {
			if ex.Overlaps(in) && ex.Bits() <= in.Bits() {
				return bad("%s is included and lies within %s, which is excluded", in, ex)
			}
		}
	}
	for i, a := range t.DNS {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() {
			return bad("resolver %s", a)
		}
		t.DNS[i] = a.Unmap()
	}
	if len(t.Include) == 0 {
		t.Include = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	return nil
}

// within says whether the tunnel carries a family.
func (t *Tunnel) within(is4 bool) bool {
	return slices.ContainsFunc(t.Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
}

// resolver is the one that answers a family; the zero Addr is none.
func (t *Tunnel) resolver(is4 bool) netip.Addr {
	for _, a := range t.DNS {
		if a.Is4() == is4 && t.within(is4) {
			return a
		}
	}
	return netip.Addr{}
}

// lan is what AllowLAN opens: RFC 1918, 3927, 4193, 4291 (link-local), multicast
// and broadcast within a site. A network that calls itself local with other
// addresses stays in the tunnel (CVE-2023-36672).
var lan = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/24"), netip.MustParsePrefix("239.0.0.0/8"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16"), netip.MustParsePrefix("ff05::/16"),
}

// The numbers of a tunnel follow from its name, so that whoever knows the name
// finds what a killed process left.
const (
	protocol = 84 // of our routes and rules, as ip route and ip rule show it
	slots    = 7000
)

func slot(name string) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int(h.Sum32() % slots)
}

// A tunnel has two routing tables: what it knows better than by a default route,
// and its default routes. Between them the local network may have a word.
func specific(name string) int { return 5400000 + 2*slot(name) }
func general(name string) int  { return specific(name) + 1 }

func priority(name string) int { return 10000 + 3*slot(name) }
