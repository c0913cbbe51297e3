package netcfg

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/top"
)

const (
	tunnelPrefix  = "top_vpn_"
	exitPrefix    = "top_exit_"
	endpointChain = "endpoints"
)

// Up puts the tunnel around the host: first the firewall, in one step, then
// addresses, routes and rules. Called again it changes what differs, in the same
// order, so that an exit is changed without a gap; Since stays. When it fails what
// it has set by then stays, to be tried again or taken back with Down. It is
// top.ErrNotFound when there is no such interface.
func Up(t Tunnel) error {
	t.Endpoints, t.DNS, t.Spare = slices.Clone(t.Endpoints), slices.Clone(t.DNS), slices.Clone(t.Spare)
	if err := t.check(); err != nil {
		return err
	}
	link, err := linkOf(t.Name)
	if err != nil {
		return err
	}
	if err := alone(t.Name); err != nil {
		return err
	}
	for _, step := range t.upSteps(link) {
		if err := step(); err != nil {
			return fmt.Errorf("tunnel %s: %w", t.Name, err)
		}
	}
	return nil
}

// upSteps are what Up does, in order: from the first on nothing leaks (NC1).
func (t Tunnel) upSteps(link netlink.Link) []func() error {
	return []func() error{
		t.firewall,
		func() error { return setSysctls(tunnelPrefix + t.Name) },
		func() error { return dress(link, t.Addrs, t.MTU) },
		func() error { return t.routes(link) },
		t.rules,
		forgetQuestions,
	}
}

// Down takes back all that Up set under the name, the firewall last, whoever set
// it; the interface may be gone. It is top.ErrNotFound when there is nothing.
func Down(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	old, err := recorded(tunnelPrefix + name)
	if err != nil {
		return err
	}
	removed := false
	for _, step := range downSteps(name, old, &removed) {
		if err := step(); err != nil {
			return fmt.Errorf("tunnel %s: %w", name, err)
		}
	}
	if old == nil && !removed {
		return fmt.Errorf("tunnel %s: nothing is set: %w", name, top.ErrNotFound)
	}
	return nil
}

// downSteps are what Down does, in order. removed says whether there were rules.
func downSteps(name string, old map[string]string, removed *bool) []func() error {
	return []func() error{
		func() (err error) { *removed, err = removeRules(name); return err },
		func() error { return removeRoutes(name, nil) },
		func() error { return undress(name) },
		func() error { return restoreSysctls(tunnelPrefix+name, old) },
		func() error {
			if old == nil {
				return nil
			}
			return removeTable(tunnelPrefix + name)
		},
		forgetQuestions,
	}
}

// SetEndpoints changes to which outer addresses marked packets may go, in one
// step. It is top.ErrNotFound when the tunnel is not up.
func SetEndpoints(name string, endpoints []netip.AddrPort) error {
	t := Tunnel{Name: name, Addrs: []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 128)}, Mark: 1, Endpoints: slices.Clone(endpoints)}
	if err := t.check(); err != nil {
		return err
	}
	old, err := recorded(tunnelPrefix + name)
	if err != nil {
		return err
	}
	if old == nil {
		return fmt.Errorf("tunnel %s is not up: %w", name, top.ErrNotFound)
	}
	if old["killswitch"] != "on" {
		return nil
	}
	t.Mark = markIn(old)
	b, err := open(tunnelPrefix + name)
	if err != nil {
		return err
	}
	c := &nftables.Chain{Name: endpointChain, Table: b.t}
	b.conn.FlushChain(c)
	b.endpoints(c, t)
	return b.commit()
}

func (b *table) endpoints(c *nftables.Chain, t Tunnel) {
	for _, e := range t.Endpoints {
		for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			b.rule(c, "", marked(t.Mark), dst.is(e.Addr()), proto(p), port(dport, e.Port(), e.Port()), count(), accept())
		}
	}
}

// Left lists what stands under names of ours, tunnels and exits, by name.
func Left() (states []State, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	for _, t := range tables {
		name, isTunnel := strings.CutPrefix(t.Name, tunnelPrefix)
		name, isExit := strings.CutPrefix(name, exitPrefix)
		if isTunnel == isExit {
			continue
		}
		n, err := notes(conn, t.Name)
		if err != nil || n == nil {
			return nil, errors.Join(err, nil)
		}
		since, _ := time.Parse(time.RFC3339, n["since"])
		_, err = netlink.LinkByName(name)
		states = append(states, State{Name: name, Exit: isExit, Since: since, KillSwitch: n["killswitch"] == "on", Alive: err == nil, Mark: markIn(n)})
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return states, nil
}

func markIn(notes map[string]string) uint32 {
	m, _ := strconv.ParseUint(notes["mark"], 0, 32)
	return uint32(m)
}

// recorded reads the notes of a table; nil says that there is none.
func recorded(name string) (map[string]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	return notes(conn, name)
}

// alone refuses a name whose numbers another tunnel has.
func alone(name string) error {
	states, err := Left()
	for _, s := range states {
		if s.Name != name && !s.Exit && slot(s.Name) == slot(name) {
			return fmt.Errorf("tunnel %s: its numbers are those of %s, which is up; take another name: %w", name, s.Name, top.ErrBusy)
		}
	}
	return err
}

func removeTable(name string) error {
	b, err := open(name)
	if err != nil {
		return err
	}
	b.conn.DelTable(b.t)
	if err := b.commit(); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// firewall replaces the tunnel's table. The priorities stand in the order in which
// a packet on its way out meets the chains: source and mark, resolver, filter.
func (t Tunnel) firewall() error {
	name := tunnelPrefix + t.Name
	n, err := notesFor(name, tunnelSysctls)
	if err != nil {
		return err
	}
	n["mark"] = fmt.Sprintf("%#x", t.Mark)
	n["killswitch"] = "off"
	if t.KillSwitch {
		n["killswitch"] = "on"
	}
	b, err := open(name)
	if err != nil {
		return err
	}
	b.renew()
	b.note(n)
	t.marks(b)
	t.names(b)
	t.filter(b)
	return b.commit()
}

// notesFor begins the notes of a table, or goes on with those that it has.
func notesFor(name string, sysctls []string) (map[string]string, error) {
	old, err := recorded(name)
	if err != nil {
		return nil, err
	}
	n := map[string]string{"since": time.Now().UTC().Format(time.RFC3339)}
	maps.Copy(n, old)
	return n, recordSysctls(name, n, sysctls)
}

// marks lets answers to outer sockets pass a strict reverse path filter, and
// refuses packets to the inner addresses from outside the tunnel
// (CVE-2019-14899).
func (t Tunnel) marks(b *table) {
	raw := b.base("prerouting_raw", hook{nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw, false})
	for _, p := range t.Addrs {
		b.rule(raw, "inner address asked for from outside", not(iif(t.Name)), not(iif("lo")), dst.is(p.Addr()), count(), drop())
	}
	in := b.base("prerouting_mark", hook{nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle, false})
	b.rule(in, "answers to the outer sockets", ctMarked(t.Mark), recall(t.Mark))
	out := b.base("postrouting_mark", hook{nftables.ChainTypeFilter, nftables.ChainHookPostrouting, *nftables.ChainPriorityMangle, false})
	b.rule(out, "the outer sockets", marked(t.Mark), keep(t.Mark))
}

// names sends questions to the exit's resolver. What goes to this host's own
// addresses is left alone: a resolver that listens there asks further, and that
// question is sent on. What enters the tunnel with a source of another interface,
// because it was meant for another way, gets the tunnel's.
func (t Tunnel) names(b *table) {
	out := b.base("output_dns", hook{nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest, false})
	through := b.base("prerouting_dns", hook{nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest, false})
	source := b.base("postrouting_source", hook{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, false})
	for _, is4 := range []bool{true, false} {
		if a := t.resolver(is4); a.IsValid() {
			for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				question := slices.Concat(family(is4), proto(p), port(dport, 53, 53))
				b.rule(out, "questions go to the exit", not(oif("lo")), not(marked(t.Mark)), question, count(), toward(a))
				b.rule(through, "questions of guests go to the exit", not(iif(t.Name)), not(local()), question, count(), toward(a))
			}
		}
		if t.within(is4) {
			b.except(src, is4, hosts(t.Addrs), func(match []expr.Any) {
				b.rule(source, "rerouted into the tunnel", oif(t.Name), match, masquerade())
			})
		}
	}
}

// hosts are the addresses themselves.
func hosts(prefixes []netip.Prefix) (all []netip.Prefix) {
	for _, p := range prefixes {
		all = append(all, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return all
}

// filter is the kill switch. What is allowed stands once, in the chain leaving.
// The chain postrouting decides: there the interface is the one that a packet does
// leave by. output and forward ask the same before, to answer at once what is
// refused: in them the interface is the one before a question was rerouted, so
// such questions are left to postrouting.
func (t Tunnel) filter(b *table) {
	leaving := b.chain("leaving")
	b.rule(leaving, "stays here", oif("lo"), accept())
	b.rule(leaving, "through the tunnel", oif(t.Name), accept())
	endpoints := b.chain(endpointChain)
	b.endpoints(endpoints, t)
	if t.KillSwitch {
		b.rule(leaving, "outer sockets, to the endpoints alone", marked(t.Mark), jump(endpoints))
	} else {
		b.rule(leaving, "outer sockets", marked(t.Mark), accept())
	}
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		b.rule(leaving, "a question outside the tunnel", proto(p), port(dport, 53, 53), count(), drop())
		b.rule(leaving, "a question outside the tunnel, by TLS or QUIC", proto(p), port(dport, 853, 853), count(), drop())
	}
	if t.KillSwitch {
		t.refuse(b, leaving)
	}
	post := b.base("postrouting", hook{nftables.ChainTypeFilter, nftables.ChainHookPostrouting, *nftables.ChainPriorityFilter, t.KillSwitch})
	b.rule(post, "", jump(leaving))
	if !t.KillSwitch {
		return
	}
	for _, at := range []struct {
		name string
		hook *nftables.ChainHook
	}{{"output", nftables.ChainHookOutput}, {"forward", nftables.ChainHookForward}} {
		c := b.base(at.name, hook{nftables.ChainTypeFilter, at.hook, *nftables.ChainPriorityFilter, true})
		b.rule(c, "rerouted questions: postrouting decides", ctHas(expr.CtKeySTATUS, ctDNAT), accept())
		b.rule(c, "", jump(leaving))
		b.rule(c, "kill switch", resetTCP())
		b.rule(c, "kill switch", refuse())
	}
}

// ctDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctDNAT = 1 << 5

// refuse ends the chain leaving: what else may leave with a kill switch. What no
// rule takes is dropped by the chains that ask.
func (t Tunnel) refuse(b *table, leaving *nftables.Chain) {
	b.rule(leaving, "DHCP", family(true), proto(unix.IPPROTO_UDP), port(sport, 68, 68), port(dport, 67, 67), accept())
	link := b.chain("link_local")
	b.rule(link, "DHCPv6", proto(unix.IPPROTO_UDP), port(sport, 546, 546), port(dport, 547, 547), accept())
	for _, kind := range []byte{130, 131, 132, 143} {
		b.rule(link, "multicast listeners (RFC 3810)", icmp6(kind), accept())
	}
	b.each(dst, linkLocal, func(match []expr.Any) { b.rule(leaving, "", match, jump(link)) })
	for _, kind := range []byte{133, 135, 136} {
		b.rule(leaving, "neighbours (RFC 4861)", hop255(), icmp6(kind), accept())
	}
	b.rule(leaving, "answers to guests", iif(t.Name), answers(), accept())
	for _, s := range t.Spare {
		for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			b.rule(leaving, "spared", dst.is(s.Addr()), proto(p), port(dport, s.Port(), s.Port()), count(), accept())
		}
	}
	b.each(dst, t.Exclude, func(match []expr.Any) { b.rule(leaving, "excluded", match, accept()) })
	everything := true
	for _, p := range t.Include {
		everything = everything && p.Bits() == 0
	}
	if !everything {
		b.each(dst, t.Include, func(match []expr.Any) { b.rule(leaving, "included", match, giveBack()) })
	}
	if t.AllowLAN {
		b.each(dst, lan, func(match []expr.Any) { b.rule(leaving, "local network", match, accept()) })
	}
	if !everything {
		b.rule(leaving, "not included", accept())
	}
}

// linkLocal is where DHCPv6 and listeners' reports go.
var linkLocal = []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16")}

// forgetQuestions ends the connections to port 53 that the kernel follows: they
// would go on to where they went before. Where it cannot, the filter drops them.
func forgetQuestions() error {
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		for _, p := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			filter := &netlink.ConntrackFilter{}
			if err := errors.Join(filter.AddProtocol(p), filter.AddPort(netlink.ConntrackOrigDstPort, 53)); err != nil {
				return err
			}
			_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, f, filter)
		}
	}
	return nil
}
