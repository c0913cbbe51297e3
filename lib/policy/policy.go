// Package policy decides what an exit serves: everything, some kinds of service,
// or a list of places. It opens no connection and resolves no name: who asks says
// the time, and tells what names were resolved to (Learn).
//
// A policy is a text, which its operator writes and everybody may read:
//
//	class allowlist          # or full, or category
//	category web mail        # of class category: names in Categories
//	93.184.216.0/24:80,443   # of class allowlist: addresses, all ports or some
//	[2001:db8::1]:udp/443    # TCP and UDP, unless a port says which
//	example.org:443          # a name, and every name below it
//	refuse 198.51.100.0/24   # of any class: not these
//	refuse *:tcp/465,587
//	smtp                     # of any class: TCP port 25 is not refused
//	loopback                 # for tests: loopback addresses are not refused
//
//	PO1  special addresses, and the exit's own, are refused by every policy, in
//	     each form that IPv6 has for them
//	PO2  a refusal is denied and names its rule
//	PO3  a category serves its ports and no other
//	PO4  an allowlist serves its addresses, and a name's as long as its answer
//	     holds
//	PO5  Parse reads what String writes as the same policy, and refuses the rest
//	PO6  Refused and Served, for a kernel, say the same as Allow
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"top/lib/top"
)

// A Class is a kind of exit, as it is sold.
type Class string

// The classes.
const (
	Full      Class = "full"
	Category  Class = "category"
	Allowlist Class = "allowlist"
)

// A Protocol is a number of IANA's; ICMP stands for ICMPv6 too.
type Protocol uint8

// The protocols that an exit forwards.
const (
	Any  Protocol = 0 // in a Flow alone
	ICMP Protocol = 1
	TCP  Protocol = 6
	UDP  Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case Any:
		return "any"
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// A Policy is safe for use by several goroutines.
type Policy struct {
	class      Class
	categories []string
	allow      []entry
	refuse     []entry
	allowed    index // of allow
	refused    index // of refuse
	smtp       bool
	loopback   bool

	mu      sync.RWMutex
	own     []netip.Prefix
	learned map[netip.Addr][]answer
	lines   int // answers in learned
}

// An answer allows an address because a name led there.
type answer struct {
	entry int // in allow
	until time.Time
}

// maxLearned bounds what Learn keeps: 64 Ki answers.
const maxLearned = 1 << 16

// A Refusal is why a flow is not served. It is top.ErrDenied.
type Refusal struct {
	Protocol Protocol
	Dst      netip.AddrPort
	Rule     string // what a client and a status show
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s to %s: refused: %s", r.Protocol, r.Dst, r.Rule)
}

// Unwrap is top.ErrDenied.
func (r *Refusal) Unwrap() error { return top.ErrDenied }

// Class is how the policy is sold.
func (p *Policy) Class() Class { return p.class }

// Loopback says whether loopback addresses are not refused, which is for tests and
// shown in every status.
func (p *Policy) Loopback() bool { return p.loopback }

// SetOwn says which addresses and networks are the exit's own.
func (p *Policy) SetOwn(own []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own = slices.Clone(own)
}

// Allow is nil when a flow to dst is served, and a *Refusal otherwise. An
// IPv4-mapped address is its IPv4 address. The port of ICMP is 0.
func (p *Policy) Allow(protocol Protocol, dst netip.AddrPort, now time.Time) error {
	dst = netip.AddrPortFrom(dst.Addr().Unmap().WithZone(""), dst.Port())
	no := func(rule string) error { return &Refusal{protocol, dst, rule} }
	if !dst.IsValid() || protocol != ICMP && protocol != TCP && protocol != UDP {
		return no("only TCP, UDP and ICMP to an address are forwarded")
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	to := behind(dst.Addr())
	mine := p.isOwn(dst.Addr()) || p.isOwn(to)
	why := whySpecial(to)
	switch {
	case p.loopback && why == isLoopback:
	case why != "":
		return no(why)
	case mine:
		return no("the exit's own network")
	case protocol == TCP && dst.Port() == 25 && !p.smtp:
		return no("mail between servers (TCP port 25)")
	}
	for _, a := range []netip.Addr{dst.Addr(), to} {
		if e := p.refused.find(p.refuse, protocol, netip.AddrPortFrom(a, dst.Port())); e != nil {
			return no("refuse " + e.String())
		}
	}
	switch p.class {
	case Full:
		return nil
	case Category:
		for _, name := range p.categories {
			if serves(Categories[name], protocol, dst.Port()) {
				return nil
			}
		}
		return no("this exit serves " + strings.Join(p.categories, ", ") + " alone")
	}
	if p.allowed.find(p.allow, protocol, dst) != nil || p.knows(protocol, dst, now) {
		return nil
	}
	return no("not on this exit's list")
}

func (p *Policy) isOwn(a netip.Addr) bool {
	return slices.ContainsFunc(p.own, func(n netip.Prefix) bool { return n.Contains(a) })
}

// Learn says that the exit's own resolver answered a question for name with addrs,
// which hold until then. Names that no line allows are forgotten at once, and so
// is the answer that would be one too many of those that still hold at now.
func (p *Policy) Learn(name string, addrs []netip.Addr, now, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for above, more := name, true; more; _, above, more = strings.Cut(above, ".") {
		for _, i := range p.allowed.names[above] {
			for _, a := range addrs {
				p.learnLocked(a.Unmap(), answer{i, until}, now)
			}
		}
	}
}

func (p *Policy) learnLocked(a netip.Addr, new answer, now time.Time) {
	for i, old := range p.learned[a] {
		if old.entry == new.entry {
			if new.until.After(old.until) {
				p.learned[a][i].until = new.until
			}
			return
		}
	}
	if p.lines >= maxLearned {
		p.forgetLocked(now)
	}
	if p.lines >= maxLearned {
		return
	}
	if p.learned == nil {
		p.learned = map[netip.Addr][]answer{}
	}
	p.learned[a] = append(p.learned[a], new)
	p.lines++
}

// forgetLocked drops the answers that do not hold any more.
func (p *Policy) forgetLocked(now time.Time) {
	p.lines = 0
	for a, answers := range p.learned {
		answers = slices.DeleteFunc(answers, func(l answer) bool { return !now.Before(l.until) })
		p.learned[a] = answers
		p.lines += len(answers)
		if len(answers) == 0 {
			delete(p.learned, a)
		}
	}
}

func (p *Policy) knows(protocol Protocol, dst netip.AddrPort, now time.Time) bool {
	return slices.ContainsFunc(p.learned[dst.Addr()], func(l answer) bool {
		return now.Before(l.until) && p.allow[l.entry].serves(protocol, dst.Port())
	})
}

// An index finds the entries of an address: by the lengths of prefixes that there
// are, so that it costs a look for each length and not for each line; and those of
// a name.
type index struct {
	at           map[netip.Prefix][]int
	bits4, bits6 []int
	names        map[string][]int
}

func makeIndex(entries []entry) index {
	x := index{at: map[netip.Prefix][]int{}, names: map[string][]int{}}
	for i, e := range entries {
		if e.name != "" {
			x.names[e.name] = append(x.names[e.name], i)
			continue
		}
		x.at[e.prefix] = append(x.at[e.prefix], i)
		bits := &x.bits6
		if e.prefix.Addr().Is4() {
			bits = &x.bits4
		}
		if !slices.Contains(*bits, e.prefix.Bits()) {
			*bits = append(*bits, e.prefix.Bits())
		}
	}
	return x
}

// find is an entry that holds the address and serves the port, or nil.
func (x index) find(entries []entry, protocol Protocol, dst netip.AddrPort) *entry {
	bits := x.bits6
	if dst.Addr().Is4() {
		bits = x.bits4
	}
	for _, n := range bits {
		network, _ := dst.Addr().Prefix(n)
		for _, i := range x.at[network] {
			if entries[i].serves(protocol, dst.Port()) {
				return &entries[i]
			}
		}
	}
	return nil
}
