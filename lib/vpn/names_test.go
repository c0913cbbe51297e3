package vpn

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// newNames is a resolver that knows one name, in the world that it is for, and counts who
// asks for it.
func newNames(t *testing.T, name string, ip [4]byte) (at netip.AddrPort, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	return answering(t, func(m *dnsmessage.Message) [][]byte {
		m.RCode = dnsmessage.RCodeNameError
		if q := m.Questions[0]; q.Name.String() == name+"." {
			asked.Add(1)
			if m.RCode = dnsmessage.RCodeSuccess; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{addressOf(q.Name, ip)}
			}
		}
		out, _ := m.Pack()
		return [][]byte{out}
	}), asked
}

// answering is a resolver that says what fn makes of a question.
func answering(t *testing.T, fn func(m *dnsmessage.Message) [][]byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxDNS)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				return
			}
			m.Response = true
			for _, out := range fn(&m) {
				pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func addressOf(name dnsmessage.Name, ip [4]byte) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 5}, Body: &dnsmessage.AResource{A: ip}}
}

// rename registers an exit by a name.
func (m *member) rename(host string) {
	m.w.set(func() {
		n := m.w.nodes[m.id()]
		a, err := ParseAddress(n.Addrs[0])
		must(m.w.t, err)
		a.Host = host
		n.Addrs = []string{a.String()}
		m.w.nodes[m.id()] = n
	})
}

// TestX4_ALaterHopsNameIsAskedOfTheHopBefore: it is known to the entry's resolver alone, so
// that who asks any other fails.
func TestX4_ALaterHopsNameIsAskedOfTheHopBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at, asked := newNames(t, "later.example", [4]byte{127, 0, 0, 1})
	entry := w.sell("entry", func(c *ExitConfig) { c.Resolver = []netip.AddrPort{at} })
	later, s := w.sell("later"), newSite(t)
	later.rename("later.example")
	alice := w.member("alice").up(via(entry, later), func(c *ClientConfig) { c.Hops = 2 })
	alice.fetched(s, 100_000)
	if h := alice.status().Hops; len(h) != 2 || h[1].Name != "later" {
		t.Errorf("hops %+v", h)
	}
	if asked.Load() == 0 {
		t.Error("nobody asked the entry's resolver")
	}
	must(t, alice.stop())
	// A name that the entry does not know ends the try, and says whose and who was asked.
	later.rename("nowhere.example")
	bob := w.member("bob")
	cfg, _ := bob.config(via(entry, later), func(c *ClientConfig) { c.Hops = 2 })
	var err error
	bob.client, err = NewClient(cfg)
	must(t, err)
	now := make(chan struct{})
	close(now)
	bob.run(bob.client.Run, now)
	w.until("the status says so", func() bool {
		return strings.Contains(bob.status().Problem, "exit later: exit entry, the hop before, finds no address of nowhere.example")
	})
}

// TestX4_NobodyIsAskedForWhoMayBeALaterHop: before entries are measured no name is looked
// up, and one machine is not two hops, by name or by address.
func TestX4_NobodyIsAskedForWhoMayBeALaterHop(t *testing.T) {
	t.Parallel()
	of := func(n byte, host string) target {
		return target{node: [32]byte{n}, owner: [32]byte{n}, addr: Address{Host: host, Port: "1"}}
	}
	path, err := apart(t.Context(), []target{of(1, "one.invalid"), of(2, "192.0.2.2")}, []target{of(3, "one.invalid"), of(4, "192.0.2.2"), of(5, "five.invalid"), of(6, "five.invalid"), of(7, "192.0.2.7")}, 3)
	must(t, err)
	if len(path) != 2 || path[0].node != of(5, "").node || path[1].node != of(7, "").node {
		t.Errorf("%+v", path)
	}
}
