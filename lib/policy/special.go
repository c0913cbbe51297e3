package policy

import (
	"net/netip"
	"slices"
)

// special is what no exit serves, of the registries of special addresses (RFC
// 6890, RFC 8190) and of clouds: the first line that holds an address says why.
// Addresses for documentation lead nowhere, and are left out for examples.
var special = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), metadata},
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},
	{netip.MustParsePrefix("fd00:ec2::254/128"), metadata},
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},
	{netip.MustParsePrefix("0.0.0.0/8"), "this network (RFC 791)"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private (RFC 1918)"},
	{netip.MustParsePrefix("100.64.0.0/10"), "behind a carrier's NAT (RFC 6598)"},
	{netip.MustParsePrefix("127.0.0.0/8"), isLoopback},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local (RFC 3927)"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private (RFC 1918)"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments (RFC 6890)"},
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relays (RFC 7526)"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private (RFC 1918)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarks (RFC 2544)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved or broadcast"},
	{netip.MustParsePrefix("::1/128"), isLoopback},
	{netip.MustParsePrefix("::/16"), "unspecified, or IPv4 in an old form (RFC 4291)"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local NAT64 (RFC 8215)"},
	{netip.MustParsePrefix("100::/8"), "discarded (RFC 6666)"},
	{netip.MustParsePrefix("2001::/32"), "Teredo (RFC 4380)"},
	{netip.MustParsePrefix("2001::/23"), "protocol assignments (RFC 2928)"},
	{netip.MustParsePrefix("2002::/16"), "6to4 (RFC 3056)"},
	{netip.MustParsePrefix("fc00::/7"), "private (RFC 4193)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local (RFC 4291)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("4000::/2"), "not assigned (RFC 4291)"},
	{netip.MustParsePrefix("8000::/1"), "not assigned (RFC 4291)"},
}

const (
	metadata   = "a cloud's metadata"
	isLoopback = "loopback"
)

// nat64 begins the addresses under which a network may reach IPv4, 64:ff9b::/96
// (RFC 6052): what is special there is special here.
var nat64 = [12]byte{0, 0x64, 0xff, 0x9b}

// throughNAT64 is an IPv4 prefix seen through NAT64.
func throughNAT64(p netip.Prefix) netip.Prefix {
	v4 := p.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte(slices.Concat(nat64[:], v4[:]))), 96+p.Bits())
}

// behind is the IPv4 address that an address leads to through NAT64, or the
// address itself.
func behind(a netip.Addr) netip.Addr {
	b := a.As16()
	if a.Is4() || [12]byte(b[:12]) != nat64 {
		return a
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

// whySpecial says why no policy serves an address; "" is that it may.
func whySpecial(a netip.Addr) string {
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.why
		}
	}
	return ""
}

// Ports are those of a service from First to Last, by one protocol; of ICMP they
// mean nothing, and of Any they are both of TCP and of UDP.
type Ports struct {
	Protocol    Protocol
	First, Last uint16
}

func one(p Protocol, port uint16) Ports { return Ports{p, port, port} }

// Categories are the kinds of service that an exit may serve alone, by their
// registered ports (IANA, service names and port numbers) where they have any.
var Categories = map[string][]Ports{
	// HTTP, HTTP/3 (RFC 9114), and where both are found beside.
	"web": {one(TCP, 80), one(TCP, 443), one(TCP, 8080), one(TCP, 8443), one(UDP, 443)},
	// Submission and mailboxes, by TLS (RFC 8314) and STARTTLS (RFC 6409).
	"mail": {one(TCP, 465), one(TCP, 587), one(TCP, 993), one(TCP, 995)},
	// DNS, and by TLS (RFC 7858) and QUIC (RFC 9250).
	"dns": {one(UDP, 53), one(TCP, 53), one(UDP, 853), one(TCP, 853)},
	// XMPP (RFC 6120) and its older TLS port, which Apple's push has too, Google's
	// push, IRC by TLS (RFC 7194), Matrix between servers.
	"chat": {one(TCP, 5222), one(TCP, 5223), {TCP, 5228, 5230}, one(TCP, 6697), one(TCP, 8448)},
	// STUN and TURN (RFC 8489, RFC 8656), SIP by TLS (RFC 3261): calls that go over a
	// relay.
	"call": {{UDP, 3478, 3481}, one(TCP, 3478), one(UDP, 5349), one(TCP, 5349), {UDP, 19302, 19309}, one(TCP, 5061)},
	"ssh":  {one(TCP, 22)},
	// NTP (RFC 5905), and the exchange of its keys (RFC 8915).
	"time": {one(UDP, 123), one(TCP, 4460)},
	// Tunnels onwards: WireGuard on any port that is not a system's, IKE, and what
	// hides in QUIC or TLS.
	"vpn":  {{UDP, 1024, 65535}, one(UDP, 443), one(UDP, 500), one(TCP, 443)},
	"ping": {{ICMP, 0, 65535}},
}

func serves(list []Ports, protocol Protocol, port uint16) bool {
	return slices.ContainsFunc(list, func(r Ports) bool {
		same := r.Protocol == protocol || r.Protocol == Any && protocol != ICMP
		return same && (protocol == ICMP || r.First <= port && port <= r.Last)
	})
}

// A Flow is what a kernel matches: a protocol, or Any of all with every port;
// addresses; ports of TCP and UDP.
type Flow struct {
	Ports
	Dst netip.Prefix
}

// all is every port of every protocol.
var all = Ports{Any, 0, 65535}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
