package vpn

import (
	"encoding/base64"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"top/lib/top"
	"top/lib/wg"
)

// The schemes of addresses: one for each carriage.
const (
	Plain = "plain" // UDP
	QUIC  = "quic"
	WSS   = "wss"
)

var schemes = map[string]string{"wg": Plain, "wg+quic": QUIC, "wg+wss": WSS}

// An Address is where an exit is met: wg://HOST:PORT/KEY?class=full&region=de, or with
// wg+quic and wg+wss for hidden carriage. It stands in the registry, so the chain
// binds the key to the node; one that is told by hand instead is known to nobody who
// scans the registry.
type Address struct {
	Carry  string // Plain, QUIC or WSS
	Host   string // a name or an address
	Port   string
	Key    wg.Key
	Class  string     // "full", "category" or "allowlist"
	Region string     // as the operator says: nobody can prove where a machine stands
	Server string     // name in TLS, of hidden carriage; "" is Host
	Node   top.NodeID // of one that is told by hand; zero where the registry says it
	Own    bool       // its own machine's addresses are served: for tests
}

// maxAddress bounds the text: the registry holds 256 bytes.
const maxAddress = 256

// ParseAddress reads the text form.
func ParseAddress(s string) (a Address, err error) {
	bad := func(why string) (Address, error) {
		return Address{}, top.Errorf(top.Invalid, "exit address %q: %s (want wg://HOST:PORT/KEY)", s, why)
	}
	u, err := url.Parse(s)
	if err != nil || len(s) > maxAddress {
		return bad("no URL")
	}
	carry, ok := schemes[u.Scheme]
	if !ok {
		return bad("unknown scheme")
	}
	a.Carry = carry
	if a.Host, a.Port, err = net.SplitHostPort(u.Host); err != nil || a.Host == "" || a.Port == "" {
		return bad("no host and port")
	}
	if a.Key, err = wg.ParseKey(strings.TrimPrefix(u.Path, "/")); err != nil {
		return bad("no key")
	}
	q := u.Query()
	a.Class, a.Region, a.Server, a.Own = q.Get("class"), q.Get("region"), q.Get("server"), q.Has("loopback")
	for _, word := range []string{a.Class, a.Region, a.Server} {
		if strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return bad("a control character")
		}
	}
	if n := q.Get("node"); n != "" {
		if a.Node, err = top.ParseNodeID(n); err != nil {
			return bad("node: " + err.Error())
		}
	}
	return a, nil
}

// String is the text form.
func (a Address) String() string {
	u := url.URL{Host: net.JoinHostPort(a.Host, a.Port), Path: "/" + base64.RawURLEncoding.EncodeToString(a.Key[:])}
	for scheme, carry := range schemes {
		if carry == a.Carry {
			u.Scheme = scheme
		}
	}
	q := url.Values{}
	for name, value := range map[string]string{"class": a.Class, "region": a.Region, "server": a.Server} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if a.Own {
		q.Set("loopback", "1")
	}
	if a.Node != (top.NodeID{}) {
		q.Set("node", a.Node.String())
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// endpoint is the address of the exit's socket; a name must be resolved before.
func (a Address) endpoint(ip netip.Addr) (netip.AddrPort, error) {
	return netip.ParseAddrPort(net.JoinHostPort(ip.String(), a.Port))
}
