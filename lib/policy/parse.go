package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"top/lib/top"
)

// The limits of a text.
const (
	MaxText  = 1 << 20 // bytes
	maxLines = 20000
	maxPorts = 64 // of one entry
)

// An entry is a target and the ports of it; no ports are all, and ICMP.
type entry struct {
	prefix netip.Prefix // or
	name   string       // in lower case
	ports  []Ports
}

func (e entry) serves(protocol Protocol, port uint16) bool {
	return len(e.ports) == 0 || serves(e.ports, protocol, port)
}

// Parse reads a policy. It is top.ErrInvalid, with the number of the line.
func Parse(text string) (*Policy, error) {
	if len(text) > MaxText || strings.Count(text, "\n") > maxLines {
		return nil, fmt.Errorf("policy of %d bytes: more than %d, or than %d lines: %w", len(text), MaxText, maxLines, top.ErrInvalid)
	}
	p := &Policy{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			if err := p.line(words); err != nil {
				return nil, fmt.Errorf("policy line %d: %w: %w", n, err, top.ErrInvalid)
			}
		}
	}
	switch {
	case p.class == "":
		return nil, fmt.Errorf("policy: want a line: class full, category or allowlist: %w", top.ErrInvalid)
	case p.class == Category && len(p.categories) == 0:
		return nil, fmt.Errorf("policy: class category serves nothing (add a line: category web): %w", top.ErrInvalid)
	case p.class == Allowlist && len(p.allow) == 0:
		return nil, fmt.Errorf("policy: class allowlist serves nothing (add a line: example.org:443): %w", top.ErrInvalid)
	}
	p.allowed, p.refused = makeIndex(p.allow), makeIndex(p.refuse)
	return p, nil
}

// line takes one line in. The class comes first, since it says what may follow.
func (p *Policy) line(words []string) error {
	key, rest := words[0], words[1:]
	if p.class == "" && key != "class" {
		return fmt.Errorf("%q before the class", key)
	}
	switch {
	case key == "class":
		if p.class != "" || len(rest) != 1 || !slices.Contains([]Class{Full, Category, Allowlist}, Class(rest[0])) {
			return fmt.Errorf("want one class: full, category or allowlist")
		}
		p.class = Class(rest[0])
	case key == "category" && p.class == Category && len(rest) > 0:
		for _, name := range rest {
			if _, known := Categories[name]; !known {
				return fmt.Errorf("category %q is not known", name)
			}
			p.categories = append(p.categories, name)
		}
		slices.Sort(p.categories)
		p.categories = slices.Compact(p.categories)
	case key == "refuse" && len(rest) == 1:
		all, err := parseEntry(rest[0])
		if err != nil {
			return err
		}
		if all[0].name != "" {
			return fmt.Errorf("refuse %q: a name is no address: who refuses a name has all of its addresses to refuse", rest[0])
		}
		p.refuse = append(p.refuse, all...)
	case key == "smtp" && len(rest) == 0:
		p.smtp = true
	case key == "loopback" && len(rest) == 0:
		p.loopback = true
	case p.class == Allowlist && len(rest) == 0:
		all, err := parseEntry(key)
		if err != nil {
			return err
		}
		p.allow = append(p.allow, all...)
	default:
		return fmt.Errorf("%q is no line of class %s", strings.Join(words, " "), p.class)
	}
	return nil
}

// parseEntry reads TARGET[:PORTS]; * is two prefixes.
func parseEntry(s string) ([]entry, error) {
	target, ports, hasPorts := s, "", false
	if rest, bracketed := strings.CutPrefix(s, "["); bracketed {
		inside, after, closed := strings.Cut(rest, "]")
		ports, hasPorts = strings.CutPrefix(after, ":")
		if !closed || !hasPorts && after != "" || !strings.Contains(inside, ":") {
			return nil, fmt.Errorf("%q: want [ADDRESS]:PORTS", s)
		}
		target = inside
	} else if strings.Count(s, ":") == 1 {
		target, ports, hasPorts = strings.Cut(s, ":")
	}
	var list []Ports
	if hasPorts {
		var err error
		if list, err = parsePorts(ports); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
	}
	if target == "*" {
		return []entry{{prefix: everywhere[0], ports: list}, {prefix: everywhere[1], ports: list}}, nil
	}
	e := entry{ports: list}
	if strings.ContainsAny(target, ":/") || strings.Trim(target, "0123456789.") == "" {
		prefix, err := parsePrefix(target)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		e.prefix = prefix
		return []entry{e}, nil
	}
	if e.name = strings.ToLower(strings.TrimSuffix(target, ".")); !isName(e.name) {
		return nil, fmt.Errorf("%q: neither an address nor a name (international names are written xn--…)", s)
	}
	return []entry{e}, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, e := netip.ParseAddr(s); e == nil {
		p, err = netip.PrefixFrom(a.WithZone(""), a.BitLen()), nil
	}
	switch {
	case strings.Contains(s, "%") || p.Addr().Is4In6():
		return p, fmt.Errorf("write an address without zone, and IPv4 as IPv4")
	case err != nil:
		return p, fmt.Errorf("no address or prefix")
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits beyond its length (want %s)", p, p.Masked())
	}
	return p, nil
}

func parsePorts(s string) (list []Ports, err error) {
	for part := range strings.SplitSeq(s, ",") {
		r := Ports{}
		if before, after, hasProtocol := strings.Cut(part, "/"); hasProtocol {
			r.Protocol = map[string]Protocol{"tcp": TCP, "udp": UDP}[before]
			if part = after; r.Protocol == Any {
				return nil, fmt.Errorf("protocol %q, want tcp or udp", before)
			}
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		var errs [2]error
		r.First, errs[0] = parsePort(from)
		r.Last, errs[1] = parsePort(to)
		if errs[0] != nil || errs[1] != nil || r.First > r.Last || isRange && r.First == r.Last {
			return nil, fmt.Errorf("port %q, want 1 to 65535, or FIRST-LAST", part)
		}
		list = append(list, r)
	}
	if len(list) > maxPorts {
		return nil, fmt.Errorf("more than %d ports", maxPorts)
	}
	return list, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("port %q", s)
	}
	return uint16(n), nil
}

// isName says whether s is a host's name (RFC 1123), with "_" as in services, and
// with two labels at least: a whole top-level domain is a slip.
func isName(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > 253 || len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// String is the policy as a text.
func (p *Policy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "class %s\n", p.class)
	if len(p.categories) > 0 {
		fmt.Fprintf(&b, "category %s\n", strings.Join(p.categories, " "))
	}
	for _, e := range p.allow {
		fmt.Fprintf(&b, "%s\n", e)
	}
	for _, e := range p.refuse {
		fmt.Fprintf(&b, "refuse %s\n", e)
	}
	if p.smtp {
		b.WriteString("smtp\n")
	}
	if p.loopback {
		b.WriteString("loopback\n")
	}
	return b.String()
}

func (e entry) String() string {
	target := e.name
	if target == "" {
		target = e.prefix.String()
		if e.prefix.IsSingleIP() {
			target = e.prefix.Addr().String()
		}
		if e.prefix.Addr().Is6() && len(e.ports) > 0 {
			target = "[" + target + "]"
		}
	}
	var ports []string
	for _, r := range e.ports {
		s := strconv.Itoa(int(r.First))
		if r.Last != r.First {
			s += "-" + strconv.Itoa(int(r.Last))
		}
		if r.Protocol != Any {
			s = r.Protocol.String() + "/" + s
		}
		ports = append(ports, s)
	}
	if len(ports) > 0 {
		target += ":" + strings.Join(ports, ",")
	}
	return target
}

// Refused is what is refused before anything is served, for a kernel, with the
// exit's own networks. ::1 is among it even where Loopback holds: no kernel
// forwards to it.
func (p *Policy) Refused() (flows []Flow) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	add := func(prefix netip.Prefix, ports []Ports) {
		flows = append(flows, flowsOf(prefix, ports)...)
		if prefix.Addr().Is4() {
			flows = append(flows, flowsOf(throughNAT64(prefix), ports)...)
		}
	}
	for _, s := range special {
		if !p.loopback || s.why != isLoopback {
			add(s.prefix, nil)
		}
	}
	for _, o := range p.own {
		if !p.loopback || !o.Addr().IsLoopback() {
			add(o, nil)
		}
	}
	for _, e := range p.refuse {
		add(e.prefix, e.ports)
	}
	if !p.smtp {
		for _, prefix := range everywhere {
			add(prefix, []Ports{one(TCP, 25)})
		}
	}
	return flows
}

// Served is what is served of the rest at a time, for a kernel.
func (p *Policy) Served(now time.Time) (flows []Flow) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	switch p.class {
	case Full:
		for _, prefix := range everywhere {
			flows = append(flows, flowsOf(prefix, nil)...)
		}
	case Category:
		for _, name := range p.categories {
			for _, prefix := range everywhere {
				flows = append(flows, flowsOf(prefix, Categories[name])...)
			}
		}
	case Allowlist:
		for _, e := range p.allow {
			if e.name == "" {
				flows = append(flows, flowsOf(e.prefix, e.ports)...)
			}
		}
		for a, answers := range p.learned {
			for _, l := range answers {
				if now.Before(l.until) {
					flows = append(flows, flowsOf(netip.PrefixFrom(a, a.BitLen()), p.allow[l.entry].ports)...)
				}
			}
		}
	}
	return flows
}

// flowsOf has a flow for each protocol of each range of ports; none are all.
func flowsOf(prefix netip.Prefix, ports []Ports) (flows []Flow) {
	if len(ports) == 0 {
		return []Flow{{all, prefix}}
	}
	for _, r := range ports {
		if r.Protocol == Any {
			flows = append(flows, Flow{Ports{TCP, r.First, r.Last}, prefix}, Flow{Ports{UDP, r.First, r.Last}, prefix})
			continue
		}
		flows = append(flows, Flow{r, prefix})
	}
	return flows
}
