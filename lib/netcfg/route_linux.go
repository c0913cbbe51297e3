package netcfg

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/top"
)

func linkOf(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("interface %s: %w", name, top.ErrNotFound)
	}
	return link, wrap(err, "interface "+name)
}

// hasIPv6 says whether the kernel speaks it at all.
func hasIPv6() bool {
	_, err := os.Stat(sysctlPath("net/ipv6/conf/all/forwarding"))
	return err == nil
}

func families() []int {
	if hasIPv6() {
		return []int{unix.AF_INET, unix.AF_INET6}
	}
	return []int{unix.AF_INET}
}

func ipnet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

// dress gives a link these addresses and no other of its family, an MTU, and sets
// it up.
func dress(link netlink.Link, addrs []netip.Prefix, mtu int) error {
	what := "interface " + link.Attrs().Name
	if mtu != 0 && mtu != link.Attrs().MTU {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return wrap(err, fmt.Sprintf("%s: MTU %d", what, mtu))
		}
	}
	for _, p := range addrs {
		// The prefix's own address, not its network's.
		n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		a := &netlink.Addr{IPNet: n}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return wrap(err, fmt.Sprintf("%s: address %s", what, p))
		}
	}
	there, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return wrap(err, what)
	}
	for _, a := range there {
		p := prefixOf(a.IPNet)
		if !p.Addr().IsLinkLocalUnicast() && !slices.Contains(addrs, p) {
			if err := netlink.AddrDel(link, &a); err != nil {
				return wrap(err, fmt.Sprintf("%s: address %s", what, p))
			}
		}
	}
	return wrap(netlink.LinkSetUp(link), what)
}

// undress takes the addresses of a link that may be gone.
func undress(name string) error {
	link, err := linkOf(name)
	if errors.Is(err, top.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	there, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for _, a := range there {
		if !a.IP.IsLinkLocalUnicast() {
			err = errors.Join(err, netlink.AddrDel(link, &a))
		}
	}
	return wrap(err, "interface "+name)
}

// lastResort is the metric of routes that refuse what the tunnel's own do not take
// any more, because the interface is gone.
const lastResort = 1 << 30

// routes fills the tunnel's own tables: what is included goes through it, what is
// excluded is thrown back to the tables after these.
func (t Tunnel) routes(link netlink.Link) error {
	own := func(p netip.Prefix, kind, metric int) netlink.Route {
		table := specific(t.Name)
		if p.Bits() == 0 {
			table = general(t.Name)
		}
		return netlink.Route{Table: table, Protocol: protocol, Dst: ipnet(p), Type: kind, Priority: metric}
	}
	var want []netlink.Route
	for _, p := range slices.Concat(t.Include, hosts(prefixes(t.DNS))) {
		if p.Addr().Is6() && !hasIPv6() {
			continue
		}
		if t.within(p.Addr().Is4()) {
			r := own(p, unix.RTN_UNICAST, 0)
			r.LinkIndex, r.Scope = link.Attrs().Index, netlink.SCOPE_LINK
			want = append(want, r)
		}
		if t.KillSwitch || !t.within(p.Addr().Is4()) {
			want = append(want, own(p, unix.RTN_UNREACHABLE, lastResort))
		}
	}
	beside := slices.Clone(t.Exclude)
	for _, s := range t.Spare {
		beside = append(beside, netip.PrefixFrom(s.Addr(), s.Addr().BitLen()))
	}
	for _, p := range beside {
		if p.Addr().Is4() || hasIPv6() {
			r := own(p, unix.RTN_THROW, 0)
			want = append(want, r)
			r.Table = general(t.Name)
			want = append(want, r)
		}
	}
	for _, r := range want {
		if err := netlink.RouteReplace(&r); err != nil {
			return wrap(err, fmt.Sprintf("route to %s", r.Dst))
		}
	}
	return removeRoutes(t.Name, want)
}

func prefixes(addrs []netip.Addr) (all []netip.Prefix) {
	for _, a := range addrs {
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all
}

// removeRoutes empties the tunnel's tables but for those to keep.
func removeRoutes(name string, keep []netlink.Route) error {
	for _, f := range families() {
		var there []netlink.Route
		for _, table := range []int{specific(name), general(name)} {
			some, err := netlink.RouteListFiltered(f, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return wrap(err, "routes")
			}
			there = append(there, some...)
		}
		for _, r := range there {
			same := func(k netlink.Route) bool {
				return k.Table == r.Table && prefixOf(k.Dst) == prefixOf(r.Dst) && k.Type == r.Type && (k.LinkIndex == 0 || k.LinkIndex == r.LinkIndex)
			}
			if slices.ContainsFunc(keep, same) {
				continue
			}
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return wrap(err, fmt.Sprintf("route to %s", r.Dst))
			}
		}
	}
	return nil
}

// rules asks the tunnel's tables for what does not bear the mark: first for what
// they know better than by a default route, then the local network's routes, if
// those are allowed, then the default routes.
func (t Tunnel) rules() error {
	var want []*netlink.Rule
	for _, f := range families() {
		at := func(offset int) *netlink.Rule {
			r := netlink.NewRule()
			r.Family, r.Protocol, r.Priority = f, protocol, priority(t.Name)+offset
			return r
		}
		first, last := at(0), at(2)
		first.Invert, first.Mark, first.Table = true, t.Mark, specific(t.Name)
		last.Invert, last.Mark, last.Table = true, t.Mark, general(t.Name)
		want = append(want, first, last)
		for _, p := range lan {
			if !t.AllowLAN || p.Addr().Is4() != (f == unix.AF_INET) {
				continue
			}
			r := at(1)
			r.Dst, r.Table, r.SuppressPrefixlen = ipnet(p), unix.RT_TABLE_MAIN, 0
			want = append(want, r)
		}
	}
	there, err := rulesOf(t.Name)
	if err != nil {
		return err
	}
	same := func(a, b *netlink.Rule) bool {
		return a.Family == b.Family && a.Priority == b.Priority && a.Mark == b.Mark && a.Table == b.Table &&
			a.Invert == b.Invert && prefixOf(a.Dst) == prefixOf(b.Dst) && a.SuppressPrefixlen == b.SuppressPrefixlen
	}
	for _, w := range want {
		if slices.ContainsFunc(there, func(r *netlink.Rule) bool { return same(r, w) }) {
			continue
		}
		if err := netlink.RuleAdd(w); err != nil && !errors.Is(err, unix.EEXIST) {
			return wrap(err, w.String())
		}
	}
	for _, r := range there {
		if slices.ContainsFunc(want, func(w *netlink.Rule) bool { return same(r, w) }) {
			continue
		}
		if err := netlink.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
			return wrap(err, r.String())
		}
	}
	return nil
}

// rulesOf are the rules of a tunnel that are there.
func rulesOf(name string) (own []*netlink.Rule, err error) {
	for _, f := range families() {
		all, err := netlink.RuleList(f)
		if err != nil {
			return nil, wrap(err, "routing rules")
		}
		for _, r := range all {
			if at := r.Priority - priority(name); r.Protocol == protocol && at >= 0 && at < 3 {
				r.Family = f
				own = append(own, &r)
			}
		}
	}
	return own, nil
}

func removeRules(name string) (some bool, err error) {
	there, err := rulesOf(name)
	for _, r := range there {
		if err := netlink.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
			return true, wrap(err, r.String())
		}
	}
	return len(there) > 0, err
}

// Sysctls. A table notes under sysctl:PATH what was there before, the first of
// several tables to need one hands it to the others, and the last to go puts it
// back.

const sysctlNote = "sysctl:"

// tunnelSysctls let the reverse path filter see the mark of an answer.
var tunnelSysctls = []string{"net/ipv4/conf/all/src_valid_mark=1"}

func sysctlPath(key string) string { return "/proc/sys/" + key }

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(sysctlPath(key))
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(key, value string) error {
	now, err := readSysctl(key)
	if err == nil && now == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(sysctlPath(key), []byte(value), 0)
	}
	if err != nil {
		return top.Errorf(top.Denied, "sysctl %s = %s: %v (set it from outside: sysctl -w %[1]s=%[2]s)", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

// recordSysctls adds notes of KEY=VALUE settings that are going to be made.
func recordSysctls(name string, n map[string]string, settings []string) error {
	others, err := others(name)
	if err != nil {
		return err
	}
	for _, s := range settings {
		key, want, _ := strings.Cut(s, "=")
		note := sysctlNote + key
		if n[note] != "" {
			continue
		}
		was, err := readSysctl(key)
		if err != nil {
			continue // not of this kernel
		}
		for _, o := range others {
			if o[note] != "" {
				was, _, _ = strings.Cut(o[note], " ")
			}
		}
		n[note] = was + " " + want
	}
	return nil
}

// others are the notes of the tables of ours but one.
func others(name string) (all []map[string]string, err error) {
	states, err := Left()
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, wrap(err, "nftables")
	}
	for _, s := range states {
		full := tunnelPrefix + s.Name
		if s.Exit {
			full = exitPrefix + s.Name
		}
		if full == name {
			continue
		}
		n, err := notes(conn, full)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// inOrder are the sysctls of notes: a host must be told to go on hearing routers
// (accept_ra) before it forwards.
func inOrder(n map[string]string) (keys []string) {
	for k := range n {
		if key, isSysctl := strings.CutPrefix(k, sysctlNote); isSysctl {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(path.Base(a), path.Base(b)), cmp.Compare(a, b)) })
	return keys
}

// setSysctls makes the settings that a table notes.
func setSysctls(name string) error {
	n, err := recorded(name)
	if err != nil {
		return err
	}
	for _, key := range inOrder(n) {
		_, want, _ := strings.Cut(n[sysctlNote+key], " ")
		err = errors.Join(err, writeSysctl(key, want))
	}
	return err
}

// restoreSysctls puts back what no other table needs, in the contrary order, where
// it is still there.
func restoreSysctls(name string, n map[string]string) error {
	others, err := others(name)
	if err != nil {
		return err
	}
	for _, key := range slices.Backward(inOrder(n)) {
		needed := func(o map[string]string) bool { return o[sysctlNote+key] != "" }
		if _, e := os.Stat(sysctlPath(key)); e != nil || slices.ContainsFunc(others, needed) {
			continue
		}
		was, _, _ := strings.Cut(n[sysctlNote+key], " ")
		err = errors.Join(err, writeSysctl(key, was))
	}
	return err
}
