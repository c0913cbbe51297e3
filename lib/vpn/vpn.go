// Package vpn is tunnels: an exit that sells them, and a client that pays for what
// it acknowledges and nothing else.
//
//	X1  an exit carries at most W units beyond what was paid, and nothing for who
//	    has no voucher
//	X2  a client pays for what it sent and the exit has, and for answers to flows
//	    that it opened; for nothing twice, and never for what was lost
//	X3  what a client sends goes where the exit's policy allows: never to the exit's
//	    own network, and never to another client
//	X4  a hop sees the nodes before and after it, and a payer of its own
//	X5  what was paid is on disk before a second has passed, and is claimed over any
//	    crash
//	X6  while a tunnel should be up nothing leaves beside it, and nothing comes up
//	    by itself when it may not
//
// Both ends speak in datagrams within the tunnel (docs/wire.md, "Tunnel"), so that who
// watches sees WireGuard alone, and a hop sees nothing of what the next is told.
package vpn

import (
	"context"
	"time"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
	"top/lib/wire"
)

// Service and Unit are the names on offers, tickets and budgets.
const (
	Service = "vpn"
	Unit    = "64KiB"
)

// unit is the bytes of one.
const unit = 64 << 10

const (
	controlPort = 1 // within the tunnel
	wgDomain    = "top/vpn/wireguard/1"
	keepalive   = 15 * time.Second // keeps a NAT's mapping (RFC 4787 REQ-5 asks for 2 minutes; many forget sooner)
	mtuPlain    = 1420             // 1,500 less 80: IPv6, UDP and WireGuard
	mtuHidden   = 1280             // what fits a datagram of HTTP/3 too
	mtuLeast    = 1280             // of IPv6 (RFC 8200, section 5)

	hopOverhead  = 80 // IPv6, UDP and WireGuard
	hopOverhead4 = 60 // IPv4, UDP and WireGuard
)

// KeyOf is the WireGuard key of a node's exit: derived from the node key, so that
// whoever has the one proves the other.
func KeyOf(node keys.Private) wg.Private {
	seed := node.Seed()
	return wg.FromSeed(wire.Digest(wgDomain, seed[:]))
}

// offerOf is what a node asks for tunnels.
func offerOf(n api.Node) (session.Offer, bool) {
	o, ok := n.Offer(Service, Unit)
	return session.Offer{Service: o.Service, Unit: o.Unit, Price: o.Price, Window: o.Window}, ok
}

// pause waits, and says false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// perGiB is the price of 16,384 units.
func perGiB(price top.Amount) top.Amount {
	all, ok := price.Mul(1 << 30 / unit)
	if !ok {
		return top.MaxSupply
	}
	return all
}
