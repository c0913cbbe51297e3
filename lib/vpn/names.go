package vpn

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"top/lib/top"
	"top/lib/wg"
)

// The name of a later hop is asked of the exit before it, through the tunnel to that: it
// learns where the next tunnel goes anyhow. The resolver of this machine, and who watches
// it, would learn which later hops are used (X4).

// named says whether an exit's host is a name that is not resolved yet.
func (t target) named() bool {
	_, err := netip.ParseAddr(t.addr.Host)
	return err != nil && !t.end.IsValid()
}

// beside says whether two exits are known to be on one machine.
func (t target) beside(o target) bool {
	return t.addr.Host == o.addr.Host || t.end.IsValid() && t.end.Addr() == o.end.Addr()
}

// lead leads the joint h, behind the tunnel t, to the last of a path, whose address is
// found by that tunnel.
func (c *Client) lead(ctx context.Context, t *tunnel, h *wg.Hop, path []target) error {
	n := len(path) - 1
	to := &path[n]
	if to.named() {
		ctx, cancel := context.WithTimeout(ctx, askWait)
		defer cancel()
		ip, err := t.lookup(ctx, h, to.addr.Host)
		if err != nil {
			return top.Errorf(top.Offline, "exit %s: exit %s, the hop before, finds no address of %s: %v", to.name, t.to.name, to.addr.Host, err)
		}
		if to.end, err = to.addr.endpoint(ip); err != nil {
			return top.Errorf(top.Offline, "exit %s: %v", to.name, err)
		}
		if err := fits(n, c.cfg.Hops, *to); err != nil {
			return err
		}
		if len(c.cfg.Via) == 0 && slices.ContainsFunc(path[:n], to.beside) {
			return top.Errorf(top.Offline, "exit %s is on the machine of a hop before it", to.name)
		}
	}
	next := t.to.seen(to.end)
	h.Lead(t.inner(next.Addr(), uint16(20000+n-1)), next)
	return nil
}

// lookup asks the exit's resolver for an address, IPv4 first.
func (t *tunnel) lookup(ctx context.Context, h *wg.Hop, host string) (ip netip.Addr, err error) {
	name, err := dnsmessage.NewName(host + ".")
	if err != nil {
		return ip, err
	}
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		var b [4]byte
		rand.Read(b[:])
		id, port := binary.NativeEndian.Uint16(b[:]), 30000+binary.NativeEndian.Uint16(b[2:])%30000
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: dnsmessage.ClassINET}}}
		body, err := q.Pack()
		if err != nil {
			return ip, err
		}
		r := resolver{learn: func(_ string, addrs []netip.Addr, _ time.Duration) { ip = addrs[0].Unmap() }}
		err = h.Ask(ctx, t.inner(exit4(), port), netip.AddrPortFrom(exit4(), 53), body, func(a []byte) bool {
			var m dnsmessage.Parser
			head, err := m.Start(a)
			if err != nil || head.ID != id || !head.Response {
				return false
			}
			r.note("", a)
			return true
		})
		if err != nil || ip.IsValid() {
			return ip, err
		}
	}
	return ip, top.ErrNotFound
}
