package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"top/lib/policy"
	"top/lib/top"
)

const (
	refusedChain = "refused"
	servedChain  = "served"
	linkGroup    = 84 // of the interfaces of our exits
)

// Serve forwards for the clients of an exit: first the firewall, in one step, then
// addresses and routes, and that this host forwards at all; where it did not
// before, it forwards for exits alone. Called again it changes what differs. It
// tells the policy what this host's own networks are; Keep goes on telling.
func Serve(e Exit) error {
	if err := e.check(); err != nil {
		return err
	}
	link, err := linkOf(e.Name)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return wrap(netlink.LinkSetGroup(link, linkGroup), "interface "+e.Name) },
		e.firewall,
		func() error { return dress(link, e.Addrs, e.MTU) },
		func() error { return e.routes(link) },
		func() error { return setSysctls(exitPrefix + e.Name) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("exit %s: %w", e.Name, err)
		}
	}
	return nil
}

// Stop takes back all that Serve set under the name, whoever set it; the interface
// may be gone. It is top.ErrNotFound when there is nothing.
func Stop(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	old, err := recorded(exitPrefix + name)
	if err == nil && old == nil {
		err = fmt.Errorf("nothing is set: %w", top.ErrNotFound)
	}
	if err == nil {
		err = restoreSysctls(exitPrefix+name, old)
	}
	if err == nil {
		err = errors.Join(removeExitRoutes(name), undress(name), removeTable(exitPrefix+name))
	}
	if err != nil {
		return fmt.Errorf("exit %s: %w", name, err)
	}
	return nil
}

// Refresh makes the exit do what its policy says now, in one step: after Learn, or
// with another policy. Connections that are served go on.
func Refresh(name string, p *policy.Policy) error {
	old, err := recorded(exitPrefix + name)
	if err == nil && old == nil {
		err = fmt.Errorf("exit %s does not serve: %w", name, top.ErrNotFound)
	}
	if err != nil {
		return err
	}
	own, err := Own(name)
	if err != nil {
		return err
	}
	p.SetOwn(own)
	b, err := open(exitPrefix + name)
	if err != nil {
		return err
	}
	refused, served := &nftables.Chain{Name: refusedChain, Table: b.t}, &nftables.Chain{Name: servedChain, Table: b.t}
	b.conn.FlushChain(refused)
	b.conn.FlushChain(served)
	b.policy(refused, served, p)
	return b.commit()
}

// settle lets changes of addresses come together before Keep looks at them.
const settle = 200 * time.Millisecond

// Keep refreshes the exit whenever the addresses and networks of this host have
// changed, until ctx ends. It is nil then, and an error when it cannot know or say
// any more.
func Keep(ctx context.Context, name string, p *policy.Policy) error {
	changes, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return wrap(err, "changes of addresses")
	}
	defer changes.Close()
	defer context.AfterFunc(ctx, changes.Close)()
	var told []netip.Prefix
	for {
		own, err := Own(name)
		if err == nil && !slices.Equal(own, told) {
			told, err = own, Refresh(name, p)
		}
		if err != nil {
			return err
		}
		// What no room was left for is a change too.
		if _, _, err := changes.Receive(); ctx.Err() != nil {
			return nil
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return wrap(err, "changes of addresses")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
	}
}

// Own are the addresses of this host, and the networks that it reaches without a
// router, but for those of one interface: its clients are not its network.
func Own(but string) (own []netip.Prefix, err error) {
	index := -1
	if link, err := linkOf(but); err == nil {
		index = link.Attrs().Index
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, wrap(err, "addresses")
	}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		own = append(own, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	for _, f := range families() {
		routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, wrap(err, "routes")
		}
		for _, r := range routes {
			direct := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 && r.Type == unix.RTN_UNICAST
			if p := prefixOf(r.Dst); direct && p.IsValid() && p.Bits() > 0 && r.LinkIndex != index {
				own = append(own, p)
			}
		}
	}
	slices.SortFunc(own, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(own), nil
}

// settings are the sysctls of an exit. Where the outside comes by router
// advertisements a host that forwards goes on hearing them only when told so.
func (e Exit) settings() (all []string) {
	if e.within(true) {
		all = append(all, forward4+"=1")
	}
	if e.within(false) && hasIPv6() {
		all = append(all, forward6+"=1")
		entries, _ := os.ReadDir(sysctlPath("net/ipv6/conf"))
		for _, d := range entries {
			key := "net/ipv6/conf/" + d.Name() + "/accept_ra"
			if was, err := readSysctl(key); err == nil && was == "1" && d.Name() != "all" && d.Name() != e.Name {
				all = append(all, key+"=2")
			}
		}
	}
	if e.Policy.Loopback() {
		all = append(all, "net/ipv4/conf/"+e.Name+"/route_localnet=1")
	}
	return all
}

const (
	forward4 = "net/ipv4/ip_forward"
	forward6 = "net/ipv6/conf/all/forwarding"
)

// routes lead to the clients.
func (e Exit) routes(link netlink.Link) error {
	if err := removeExitRoutes(e.Name); err != nil {
		return err
	}
	for _, p := range e.Inner {
		there := func(a netip.Prefix) bool { return a.Masked() == p.Masked() }
		if slices.ContainsFunc(e.Addrs, there) || p.Addr().Is6() && !hasIPv6() {
			continue
		}
		r := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipnet(p), Protocol: protocol, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(&r); err != nil {
			return wrap(err, fmt.Sprintf("route to %s", p))
		}
	}
	return nil
}

func removeExitRoutes(name string) error {
	link, err := linkOf(name)
	if errors.Is(err, top.ErrNotFound) {
		return nil
	}
	for _, f := range families() {
		mine := &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: protocol}
		routes, e := netlink.RouteListFiltered(f, mine, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		for _, r := range routes {
			e = errors.Join(e, netlink.RouteDel(&r))
		}
		err = errors.Join(err, e)
	}
	return wrap(err, "routes to clients")
}

func (e Exit) firewall() error {
	name := exitPrefix + e.Name
	n, err := notesFor(name, e.settings())
	if err != nil {
		return err
	}
	own, err := Own(e.Name)
	if err != nil {
		return err
	}
	e.Policy.SetOwn(own)
	b, err := open(name)
	if err != nil {
		return err
	}
	b.renew()
	b.note(n)
	refused, served := b.chain(refusedChain), b.chain(servedChain)
	b.policy(refused, served, e.Policy)
	e.forward(b, refused, served, n)
	e.host(b)
	e.rewrite(b)
	return b.commit()
}

// forward is what passes through this host from clients and to them.
func (e Exit) forward(b *table, refused, served *nftables.Chain, n map[string]string) {
	from := b.chain("from_clients")
	b.rule(from, "segments fit the path", clampMSS())
	e.strangers(b, from)
	b.rule(from, "another client", oif(e.Name), count(), refuse())
	b.rule(from, "", answers(), accept())
	b.rule(from, "", ctHas(expr.CtKeySTATE, expr.CtStateBitINVALID), drop())
	known := b.chain("protocols")
	for _, match := range [][]expr.Any{proto(unix.IPPROTO_TCP), proto(unix.IPPROTO_UDP), echoes(true), echoes(false)} {
		b.rule(known, "", match, giveBack())
	}
	b.rule(known, "no protocol that is served", count(), refuse())
	for _, c := range []*nftables.Chain{known, refused, served} {
		b.rule(from, "", jump(c))
	}
	b.rule(from, "not served", count(), resetTCP())
	b.rule(from, "not served", count(), refuse())

	to := b.chain("to_clients")
	b.rule(to, "segments fit the path", clampMSS())
	b.rule(to, "", answers(), accept())
	b.rule(to, "nobody asked for it", count(), drop())

	c := b.base("forward", hook{nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter, false})
	b.rule(c, "", iif(e.Name), jump(from))
	b.rule(c, "", oif(e.Name), jump(to))
	for key, is4 := range map[string]bool{forward4: true, forward6: false} {
		if was := n[sysctlNote+key]; was == "0 1" {
			group := func(key expr.MetaKey) []expr.Any {
				return not(metaIs(key, binaryutil.NativeEndian.PutUint32(linkGroup)))
			}
			b.rule(c, "this host forwards for exits alone", family(is4), group(expr.MetaKeyIIFGROUP), group(expr.MetaKeyOIFGROUP), count(), drop())
		}
	}
}

// echoes matches ICMP that asks for an echo.
func echoes(is4 bool) []expr.Any {
	if !is4 {
		return slices.Concat(family(false), icmp6(128))
	}
	return slices.Concat(family(true), proto(unix.IPPROTO_ICMP), []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{8}}})
}

// strangers drops what bears no client's address.
func (e Exit) strangers(b *table, c *nftables.Chain) {
	for _, is4 := range []bool{true, false} {
		b.except(src, is4, e.Inner, func(match []expr.Any) { b.rule(c, "no client's address", match, count(), drop()) })
	}
}

// host is what clients may ask of this host itself.
func (e Exit) host(b *table) {
	to := b.chain("to_host")
	e.strangers(b, to)
	b.rule(to, "", answers(), accept())
	for _, a := range e.Addrs {
		for _, l := range e.Local {
			b.rule(to, "the exit's own service", dst.is(a.Addr()), proto(byte(l.Protocol)), port(dport, l.First, l.Last), accept())
		}
		b.rule(to, "is the exit there", dst.is(a.Addr()), echoes(a.Addr().Is4()), accept())
	}
	if e.Policy.Loopback() {
		b.each(dst, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, func(match []expr.Any) { b.rule(to, "loopback, for tests", match, accept()) })
	}
	b.rule(to, "this host", count(), resetTCP())
	b.rule(to, "this host", count(), refuse())
	c := b.base("input", hook{nftables.ChainTypeFilter, nftables.ChainHookInput, *nftables.ChainPriorityFilter, false})
	b.rule(c, "", iif(e.Name), jump(to))
}

// rewrite gives clients this host's address.
func (e Exit) rewrite(b *table) {
	nat := b.base("postrouting_source", hook{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource, false})
	b.each(src, e.Inner, func(match []expr.Any) {
		b.rule(nat, "clients have this host's address", not(oif(e.Name)), match, masquerade())
	})
}

// policy fills the chains of what is refused and what is served.
func (b *table) policy(refused, served *nftables.Chain, p *policy.Policy) {
	b.flows(p.Refused(), func(match []expr.Any) {
		b.rule(refused, "refused by policy", match, count(), refuse())
	})
	b.flows(p.Served(time.Now()), func(match []expr.Any) { b.rule(served, "", match, accept()) })
}

// flows calls do with a match for each rule that the flows need: those of the same
// ports make one.
func (b *table) flows(flows []policy.Flow, do func(match []expr.Any)) {
	byPorts := map[policy.Ports][]netip.Prefix{}
	for _, f := range flows {
		byPorts[f.Ports] = append(byPorts[f.Ports], f.Dst)
	}
	order := func(a, b policy.Ports) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	}
	for _, ports := range slices.SortedFunc(maps.Keys(byPorts), order) {
		for _, is4 := range []bool{true, false} {
			var match []expr.Any
			switch ports.Protocol {
			case policy.Any:
			case policy.ICMP:
				match = echoes(is4)
			default:
				match = slices.Concat(proto(byte(ports.Protocol)), port(dport, ports.First, ports.Last))
			}
			b.each(dst, ofFamily(byPorts[ports], is4), func(to []expr.Any) { do(slices.Concat(to, match)) })
		}
	}
}

func ofFamily(prefixes []netip.Prefix, is4 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != is4 })
}
