package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"top/lib/top"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everything is a policy of each class that serves all that one can.
func everything(t testing.TB) []*Policy {
	return []*Policy{
		parse(t, "class full\n"),
		parse(t, "class category\ncategory "+strings.Join(slices.Collect(func(yield func(string) bool) {
			for name := range Categories {
				if !yield(name) {
					return
				}
			}
		}), " ")),
		parse(t, "class allowlist\n*\n0.0.0.0/0\n::/0\n"),
	}
}

// refused wants one rule to refuse a flow.
func refused(t *testing.T, p *Policy, protocol Protocol, dst, rule string) {
	t.Helper()
	err := p.Allow(protocol, netip.MustParseAddrPort(dst), noon)
	var r *Refusal
	if !errors.As(err, &r) || !errors.Is(err, top.ErrDenied) || !strings.Contains(r.Rule, rule) || !strings.Contains(err.Error(), r.Rule) {
		t.Errorf("%s %s by class %s: %v, want %q", protocol, dst, p.Class(), err, rule)
	}
}

func served(t *testing.T, p *Policy, protocol Protocol, dst string) {
	t.Helper()
	if err := p.Allow(protocol, netip.MustParseAddrPort(dst), noon); err != nil {
		t.Errorf("class %s: %v", p.Class(), err)
	}
}

// attacks are addresses by which a client might reach what is not outside.
var attacks = map[string]string{
	"10.1.2.3": "RFC 1918", "172.16.0.1": "RFC 1918", "172.31.255.255": "RFC 1918", "192.168.0.1": "RFC 1918",
	"100.64.0.1": "RFC 6598", "100.127.255.255": "RFC 6598",
	"127.0.0.1": "loopback", "127.255.255.254": "loopback", "0.0.0.0": "RFC 791", "0.1.2.3": "RFC 791",
	"169.254.0.1": "link-local", "169.254.169.254": "metadata", "100.100.100.200": "metadata", "192.0.0.192": "metadata", "168.63.129.16": "metadata",
	"198.18.0.1": "benchmarks", "192.0.0.1": "assignments", "192.88.99.1": "6to4",
	"224.0.0.1": "multicast", "239.255.255.250": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "reserved",

	"::":  "old form",
	"::1": "loopback", "fc00::1": "RFC 4193", "fd12:3456::1": "RFC 4193", "fd00:ec2::254": "metadata", "fd20:ce::254": "metadata",
	"fe80::1": "link-local", "febf::1": "link-local", "fec0::1": "not assigned", "ff02::1": "multicast", "ff0e::1": "multicast",
	"100::1": "discarded", "2001:20::1": "assignments", "5f00::1": "not assigned", "4000::1": "not assigned", "8000::1": "not assigned",

	"::ffff:10.0.0.1": "RFC 1918", "::ffff:127.0.0.1": "loopback", "::ffff:169.254.169.254": "metadata", "::ffff:192.168.1.1": "RFC 1918", // mapped
	"::10.0.0.1": "old form", "::127.0.0.1": "old form", // compatible
	"::ffff:0:10.0.0.1":  "old form", // translated, RFC 2765
	"64:ff9b::10.0.0.1":  "RFC 1918", // NAT64
	"64:ff9b::127.0.0.1": "loopback", "64:ff9b::169.254.169.254": "metadata", "64:ff9b::100.64.0.1": "RFC 6598", "64:ff9b::0.0.0.0": "RFC 791",
	"64:ff9b:1::10.0.0.1":                  "RFC 8215",
	"64:ff9b:1:ffff::8.8.8.8":              "RFC 8215",
	"2002:a00:1::":                         "6to4", // 10.0.0.1
	"2002:7f00:1::1":                       "6to4",
	"2002:c0a8:101::1":                     "6to4",
	"2001:0:4136:e378:8000:63bf:f5ff:fffe": "Teredo", // of 10.0.0.1
	"2001::1":                              "Teredo",
}

// outside are addresses beside those.
var outside = []string{
	"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0",
	"172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.17",
	"2001:200::1", "2001:4860:4860::8888", "2003::1", "2400::1", "3fff::1", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1",
}

func TestPO1_SpecialAddressesAreRefusedInEachForm(t *testing.T) {
	for _, p := range everything(t) {
		for a, rule := range attacks {
			for _, protocol := range []Protocol{TCP, UDP, ICMP} {
				refused(t, p, protocol, netip.AddrPortFrom(netip.MustParseAddr(a), 443).String(), rule)
			}
		}
		refused(t, p, TCP, "[fe80::1%eth0]:443", "link-local")
		for _, a := range outside {
			served(t, p, TCP, netip.AddrPortFrom(netip.MustParseAddr(a), 443).String())
		}
		own := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28"), netip.MustParsePrefix("2a01:db8:1::/64"), netip.MustParsePrefix("127.0.0.0/8")}
		p.SetOwn(own)
		for _, a := range []string{"203.0.113.0", "203.0.113.15", "2a01:db8:1::99", "::ffff:203.0.113.1", "64:ff9b::203.0.113.1"} {
			refused(t, p, UDP, netip.AddrPortFrom(netip.MustParseAddr(a), 443).String(), "own network")
		}
		served(t, p, UDP, "203.0.113.16:443")
		p.SetOwn(nil)
		served(t, p, UDP, "203.0.113.1:443")
	}

	// The switch for tests opens loopback and nothing else.
	p := parse(t, "class full\nloopback\n")
	p.SetOwn([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("203.0.113.1/32")})
	if !p.Loopback() || parse(t, "class full").Loopback() {
		t.Error("loopback is not shown")
	}
	for _, a := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		served(t, p, TCP, netip.AddrPortFrom(netip.MustParseAddr(a), 80).String())
	}
	for a, rule := range attacks {
		if rule != "loopback" {
			refused(t, p, TCP, netip.AddrPortFrom(netip.MustParseAddr(a), 80).String(), rule)
		}
	}
	refused(t, p, TCP, "203.0.113.1:80", "own network")
}

func TestPO2_ARefusalNamesItsRule(t *testing.T) {
	full := parse(t, "class full\nrefuse 203.0.113.0/24\nrefuse *:tcp/465,587\nrefuse [2001:db8::/32]:8000-8010\n")
	refused(t, full, TCP, "198.51.100.1:25", "TCP port 25")
	refused(t, full, TCP, "[2001:db8:1::1]:25", "TCP port 25")
	served(t, full, UDP, "198.51.100.1:25")
	served(t, parse(t, "class full\nsmtp"), TCP, "198.51.100.1:25")
	refused(t, full, ICMP, "203.0.113.9:0", "refuse 203.0.113.0/24")
	refused(t, full, UDP, "203.0.113.9:1", "refuse 203.0.113.0/24")
	refused(t, full, UDP, "[64:ff9b::203.0.113.9]:1", "refuse 203.0.113.0/24")
	refused(t, full, TCP, "198.51.100.1:465", "refuse 0.0.0.0/0:tcp/465,587")
	refused(t, full, TCP, "[2a00::1]:587", "refuse [::/0]:tcp/465,587")
	served(t, full, UDP, "198.51.100.1:465")
	refused(t, full, UDP, "[2001:db8::1]:8010", "refuse [2001:db8::/32]:8000-8010")
	served(t, full, UDP, "[2001:db8::1]:8011")
	served(t, full, ICMP, "[2001:db8::1]:0")
	for _, protocol := range []Protocol{Any, 2, 41, 47, 132} {
		refused(t, full, protocol, "198.51.100.1:0", "only TCP, UDP and ICMP")
	}
	if err := full.Allow(TCP, netip.AddrPort{}, noon); !errors.Is(err, top.ErrDenied) {
		t.Errorf("no address: %v", err)
	}
	// smtp lifts the refusal, and makes no category wider.
	refused(t, parse(t, "class category\ncategory web\nsmtp"), TCP, "198.51.100.1:25", "serves web alone")
}

func TestPO3_ACategoryServesItsPortsAlone(t *testing.T) {
	for text, want := range map[string]string{
		"web":  "tcp/80 tcp/443 tcp/8080 tcp/8443 udp/443",
		"mail": "tcp/465 tcp/587 tcp/993 tcp/995",
		"dns":  "tcp/53 udp/53 tcp/853 udp/853",
		"ssh":  "tcp/22",
		"time": "udp/123 tcp/4460",
		"ping": "icmp/0",
		"chat": "tcp/5222 tcp/5223 tcp/5228 tcp/5229 tcp/5230 tcp/6697 tcp/8448",
		"call": "udp/3478 udp/3479 udp/3480 udp/3481 tcp/3478 udp/5349 tcp/5349 tcp/5061 udp/19302 udp/19303 udp/19304 udp/19305 udp/19306 udp/19307 udp/19308 udp/19309",
	} {
		p := parse(t, "class category\ncategory "+text)
		var got []string
		for _, protocol := range []Protocol{TCP, UDP, ICMP} {
			for port := range 65536 {
				if protocol == ICMP && port > 0 {
					break
				}
				if p.Allow(protocol, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(port)), noon) == nil {
					got = append(got, fmt.Sprintf("%s/%d", protocol, port))
				}
			}
		}
		fields := strings.Fields(want)
		slices.Sort(got)
		slices.Sort(fields)
		if !slices.Equal(got, fields) {
			t.Errorf("%s serves %q", text, got)
		}
	}
	vpn := parse(t, "class category\ncategory vpn ssh")
	served(t, vpn, UDP, "198.51.100.1:51820")
	served(t, vpn, UDP, "198.51.100.1:500")
	served(t, vpn, TCP, "198.51.100.1:443")
	served(t, vpn, TCP, "198.51.100.1:22")
	refused(t, vpn, UDP, "198.51.100.1:1023", "serves ssh, vpn alone")
	refused(t, vpn, UDP, "198.51.100.1:53", "serves ssh, vpn alone")
	refused(t, vpn, TCP, "198.51.100.1:51820", "serves ssh, vpn alone")
}

func TestPO4_AnAllowlistServesNamesWhileTheirAnswersHold(t *testing.T) {
	p := parse(t, "class allowlist\nexample.org:443\n93.184.216.0/24:80,udp/443\n[2001:db8::1]\nAPI.Example.NET.\n")
	served(t, p, TCP, "93.184.216.1:80")
	served(t, p, UDP, "93.184.216.1:443")
	served(t, p, ICMP, "[2001:db8::1]:0")
	refused(t, p, TCP, "93.184.216.1:443", "not on this exit's list")
	refused(t, p, ICMP, "93.184.216.1:0", "not on this exit's list")
	refused(t, p, TCP, "93.184.217.1:80", "not on this exit's list")
	refused(t, p, TCP, "[2001:db8::2]:80", "not on this exit's list")

	a, b, c := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("::ffff:198.51.100.2"), netip.MustParseAddr("2a00::3")
	hour := noon.Add(time.Hour)
	for _, name := range []string{"example.com", "badexample.org", "example.org.evil.com", "org", "", ".", "example.net"} {
		p.Learn(name, []netip.Addr{a}, noon, hour)
	}
	refused(t, p, TCP, "198.51.100.1:443", "not on")
	p.Learn("www.Example.org.", []netip.Addr{a, b}, noon, hour)
	p.Learn("api.example.net", []netip.Addr{c}, noon, hour)
	served(t, p, TCP, "198.51.100.1:443")
	served(t, p, UDP, "198.51.100.2:443")
	served(t, p, TCP, "[2a00::3]:9")
	refused(t, p, TCP, "198.51.100.1:80", "not on")
	end := netip.MustParseAddrPort("198.51.100.1:443")
	if p.Allow(TCP, end, hour.Add(-1)) != nil || p.Allow(TCP, end, hour) == nil {
		t.Error("an answer holds too long, or not long enough")
	}
	// A later answer makes it hold longer, an earlier one not shorter.
	p.Learn("example.org", []netip.Addr{a}, noon, hour.Add(time.Hour))
	p.Learn("example.org", []netip.Addr{a}, noon, noon.Add(time.Second))
	if p.Allow(TCP, end, hour) != nil || p.Allow(TCP, end, hour.Add(time.Hour)) == nil {
		t.Error("answers do not add up")
	}
	// Rebinding: a name that leads inside leads nowhere.
	p.Learn("example.org", []netip.Addr{netip.MustParseAddr("192.168.0.1"), netip.MustParseAddr("64:ff9b::10.0.0.1")}, noon, hour)
	refused(t, p, TCP, "192.168.0.1:443", "RFC 1918")
	refused(t, p, TCP, "[64:ff9b::10.0.0.1]:443", "RFC 1918")
}

func TestPO4_AnswersAreBounded(t *testing.T) {
	p := parse(t, "class allowlist\nexample.org\n")
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{44, byte(i >> 16), byte(i >> 8), byte(i)}) }
	knows := func(i int, now time.Time) bool { return p.Allow(TCP, netip.AddrPortFrom(addr(i), 80), now) == nil }
	for i := range maxLearned {
		p.Learn("example.org", []netip.Addr{addr(i)}, noon, noon.Add(time.Minute))
	}
	p.Learn("example.org", []netip.Addr{addr(maxLearned)}, noon, noon.Add(time.Hour))
	if !knows(maxLearned-1, noon) || knows(maxLearned, noon) || p.lines != maxLearned {
		t.Errorf("one too many is kept, or pushes another out: %d", p.lines)
	}
	later := noon.Add(2 * time.Minute)
	p.Learn("example.org", []netip.Addr{addr(maxLearned)}, later, later.Add(time.Minute))
	if !knows(maxLearned, later) || p.lines != 1 || len(p.learned) != 1 {
		t.Errorf("answers that ended take room: %d", p.lines)
	}
}

func TestPO5_ParseRefusesTheRest(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "want a line: class",
		"# nothing":                           "want a line: class",
		"category web":                        `line 1: "category" before the class`,
		"class":                               "want one class",
		"class best":                          "want one class",
		"class full full":                     "want one class",
		"class full\nclass full":              "line 2: want one class",
		"class category":                      "serves nothing",
		"class category\n\ncategory":          "line 3:",
		"class category\ncategory web games":  `category "games" is not known`,
		"class full\ncategory web":            "no line of class full",
		"class full\nexample.org":             "no line of class full",
		"class allowlist":                     "serves nothing",
		"class allowlist\nallow 1.2.3.4":      "no line of class allowlist",
		"class allowlist\nexample":            "neither an address nor a name",
		"class allowlist\nexämple.org":        "xn--",
		"class allowlist\n-a.org":             "neither",
		"class allowlist\na..org":             "neither",
		"class allowlist\nexample.org:":       "port",
		"class allowlist\nexample.org:0":      "port",
		"class allowlist\nexample.org:65536":  "port",
		"class allowlist\nexample.org:080":    "port",
		"class allowlist\nexample.org:9-8":    "port",
		"class allowlist\nexample.org:8-8":    "port",
		"class allowlist\nexample.org:sctp/9": `protocol "sctp"`,
		"class allowlist\n1.2.3.4/33":         "no address",
		"class allowlist\n1.2.3":              "no address",
		"class allowlist\n1.2.3.4/24":         "want 1.2.3.0/24",
		"class allowlist\n[2001:db8::1":       "[ADDRESS]:PORTS",
		"class allowlist\n[1.2.3.4]:80":       "[ADDRESS]:PORTS",
		"class allowlist\n[2001:db8::1]80":    "[ADDRESS]:PORTS",
		"class allowlist\n[2001:db8::1]:":     "port",
		"class allowlist\n::ffff:1.2.3.4":     "IPv4 as IPv4",
		"class allowlist\n[fe80::1%eth0]:80":  "without zone",
		"class full\nrefuse example.org":      "a name is no address",
		"class full\nrefuse":                  "no line",
		"class full\nsmtp yes":                "no line",
		"class full\nloopback 1":              "no line",
		"class allowlist\na.org:" + strings.Repeat("1,", maxPorts) + "1": "more than",
		"class full\n" + strings.Repeat("#", MaxText):                    "more than",
		"class full\n" + strings.Repeat("\n", maxLines):                  "more than",
	} {
		p, err := Parse(text)
		if p != nil || !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	text := "class allowlist\n93.184.216.0/24:80,443\n[2001:db8::1]:udp/443\n2001:db8::2\nexample.org:8000-8100\n1.1.1.1\nrefuse 198.51.100.0/24\nrefuse 0.0.0.0/0:tcp/465,587\nsmtp\nloopback\n"
	if got := parse(t, "\n # a list\n"+strings.ReplaceAll(text, "\n", " # why\r\n\n")).String(); got != text {
		t.Errorf("%q\nwant %q", got, text)
	}
	if got := parse(t, "class category\ncategory web dns\ncategory dns mail").String(); got != "class category\ncategory dns mail web\n" {
		t.Errorf("%q", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"class full", "class category\ncategory web vpn\nsmtp\n", "class allowlist\nexample.org:443\n*:udp/53\n[::/0]:1-2\n10.0.0.0/8\nrefuse 1.1.1.1:tcp/1\nloopback",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := Parse(p.String())
		if err != nil || again.String() != p.String() || again.Class() != p.Class() {
			t.Fatalf("%q: %v\n%q", p, err, again)
		}
		if p.Allow(TCP, netip.MustParseAddrPort("10.0.0.1:80"), noon) == nil {
			t.Fatalf("%q: serves a private address", p)
		}
		same(t, p, netip.MustParseAddr("1.1.1.1"), noon)
	})
}

// same compares what a kernel would do with what Allow says.
func same(t *testing.T, p *Policy, a netip.Addr, now time.Time) {
	t.Helper()
	if p.Loopback() && a == netip.IPv6Loopback() {
		return
	}
	refused, served := p.Refused(), p.Served(now)
	match := func(flows []Flow, protocol Protocol, dst netip.AddrPort) bool {
		return slices.ContainsFunc(flows, func(f Flow) bool {
			return f.Dst.Contains(dst.Addr()) && (f.Protocol == Any || f.Protocol == protocol && (protocol == ICMP || f.First <= dst.Port() && dst.Port() <= f.Last))
		})
	}
	for _, protocol := range []Protocol{TCP, UDP, ICMP} {
		for _, port := range []uint16{0, 1, 22, 25, 53, 80, 443, 465, 587, 1023, 1024, 8080, 51820, 65535} {
			dst := netip.AddrPortFrom(a, port)
			if port == 0 != (protocol == ICMP) {
				continue
			}
			kernel := !match(refused, protocol, dst) && match(served, protocol, dst)
			if got := p.Allow(protocol, dst, now) == nil; got != kernel {
				t.Errorf("%s %s: Allow says %v, a kernel %v of\n%s", protocol, dst, got, kernel, p)
			}
		}
	}
}

func TestPO6_AKernelSaysTheSame(t *testing.T) {
	policies := append(everything(t),
		parse(t, "class full\nloopback\nsmtp\nrefuse *:tcp/465,587\nrefuse 198.51.100.0/24:443\n"),
		parse(t, "class category\ncategory web vpn ping\nrefuse 2001:db8::/32\n"),
		parse(t, "class allowlist\nexample.org:443\n198.51.100.0/25:80,udp/53\n2001:db8::/32\n[64:ff9b::/96]:443\n"))
	for i, p := range policies {
		p.Learn("example.org", []netip.Addr{netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("10.9.9.9")}, noon, noon.Add(time.Hour))
		p.SetOwn([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/28"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2a01::/64")})
		for a := range attacks {
			same(t, p, netip.MustParseAddr(a).Unmap(), noon)
		}
		for _, a := range append(outside, "198.51.100.1", "198.51.100.200", "203.0.113.77", "203.0.113.1", "2001:db8::7", "2a01::1", "64:ff9b::203.0.113.1", "64:ff9b::198.51.100.1", "10.9.9.9") {
			same(t, p, netip.MustParseAddr(a).Unmap(), noon)
			same(t, p, netip.MustParseAddr(a).Unmap(), noon.Add(2*time.Hour))
		}
		if t.Failed() {
			t.Fatalf("policy %d", i)
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	var text strings.Builder
	text.WriteString("class allowlist\n")
	for i := range 10000 {
		fmt.Fprintf(&text, "%d.%d.%d.0/%d:443\n", 20+i%100, i/100, i%256&^15, 20+i%5)
	}
	lines := strings.Split(text.String(), "\n")
	text.Reset()
	for _, l := range lines {
		if target, ports, ok := strings.Cut(l, ":"); ok {
			l = netip.MustParsePrefix(target).Masked().String() + ":" + ports
		}
		text.WriteString(l + "\n")
	}
	p := parse(b, text.String())
	dst := netip.MustParseAddrPort("198.51.100.1:443")
	for b.Loop() {
		if p.Allow(TCP, dst, noon) == nil {
			b.Fatal("served")
		}
	}
}
