package mesh

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"top/lib/top"
)

// Whether strangers reach a host.
const (
	Public  = "public"  // somebody dialled back
	Private = "private" // nobody could, or it is reached through hops
	Unknown = "unknown" // nobody tried yet
)

// Reservations with hops (circuit relay v2 grants an hour).
const (
	renewEarly = 5 * time.Minute
	hopRetry   = 5 * time.Second
)

// reachOptions is how a host learns whether it is reached, and sees to it that it
// is.
func (cfg Config) reachOptions() (all []libp2p.Option, hops []peer.AddrInfo, err error) {
	if !cfg.Reach && !cfg.Hop && len(cfg.Via) == 0 {
		return []libp2p.Option{libp2p.DisableRelay(), libp2p.DisableIdentifyAddressDiscovery()}, nil, nil
	}
	all = []libp2p.Option{libp2p.EnableRelay(), libp2p.EnableAutoNATv2(), libp2p.EnableHolePunching()}
	if cfg.Hop {
		all = append(all, libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	}
	for _, addr := range cfg.Via {
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			return nil, nil, top.Errorf(top.Invalid, "hop %q: %v (want /ip4/…/tcp/…/p2p/…)", addr, err)
		}
		hops = append(hops, *info)
	}
	if len(hops) > 0 {
		if cfg.Hop {
			return nil, nil, top.Errorf(top.Invalid, "a host that is reached through hops is no hop")
		}
		all = append(all, libp2p.ForceReachabilityPrivate())
	}
	return all, hops, nil
}

// reach is what is known about who reaches a host.
type reach struct {
	h    host.Host
	sub  event.Subscription
	stop context.CancelFunc
	all  sync.WaitGroup

	mu    sync.Mutex
	state string
	hops  map[peer.ID]peer.AddrInfo // that hold a reservation of ours
}

// begin follows what AutoNAT finds, and reserves with the hops, until close.
func (r *reach) begin(h host.Host, hops []peer.AddrInfo, log *slog.Logger) (err error) {
	r.h, r.state, r.hops = h, Unknown, map[peer.ID]peer.AddrInfo{}
	if r.sub, err = h.EventBus().Subscribe(new(event.EvtHostReachableAddrsChanged)); err != nil {
		return err
	}
	r.all.Go(func() {
		for e := range r.sub.Out() {
			r.heard(e.(event.EvtHostReachableAddrsChanged))
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	for _, hop := range hops {
		r.state = Private
		r.all.Go(func() { r.reserve(ctx, hop, log) })
	}
	return nil
}

func (r *reach) heard(e event.EvtHostReachableAddrsChanged) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(e.Reachable) > 0:
		r.state = Public
	case len(e.Unreachable) > 0:
		r.state = Private
	}
}

// reserve keeps a reservation with a hop until ctx ends.
func (r *reach) reserve(ctx context.Context, hop peer.AddrInfo, log *slog.Logger) {
	for ctx.Err() == nil {
		wait := hopRetry
		grant, err := client.Reserve(ctx, r.h, hop)
		r.mu.Lock()
		if delete(r.hops, hop.ID); err == nil {
			r.hops[hop.ID] = hop
		}
		r.mu.Unlock()
		if err == nil {
			wait = max(hopRetry, time.Until(grant.Expiration)-renewEarly)
		} else if ctx.Err() == nil {
			log.Info("no reservation", "hop", hop.String(), "err", err)
		}
		over := time.NewTimer(wait)
		look := time.NewTicker(hopRetry)
		for here := true; here; {
			select {
			case <-ctx.Done():
				here = false
			case <-over.C:
				here = false
			case <-look.C: // a reservation ends with its connection
				here = err == nil && r.h.Network().Connectedness(hop.ID) == network.Connected
			}
		}
		over.Stop()
		look.Stop()
	}
}

// circuits are the addresses at which the hops take calls for us.
func (r *reach) circuits() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, hop := range r.hops {
		for _, a := range hop.Addrs {
			all = append(all, a.String()+"/p2p/"+hop.ID.String()+"/p2p-circuit")
		}
	}
	slices.Sort(all)
	return all
}

func (r *reach) close() {
	r.stop()
	r.sub.Close()
	r.all.Wait()
}

func isCircuit(a multiaddr.Multiaddr) bool {
	return slices.ContainsFunc(a.Protocols(), func(p multiaddr.Protocol) bool { return p.Code == multiaddr.P_CIRCUIT })
}

// Reachability says whether strangers reach this host: Public, Private or Unknown.
func (h *Host) Reachability() string {
	h.reach.mu.Lock()
	defer h.reach.mu.Unlock()
	return h.reach.state
}

// A Peer is one connection to another host.
type Peer struct {
	ID      string
	Addr    string
	Inbound bool
	Relayed bool // through a hop
	Since   time.Time
}

// Reaches is IP:PORT of peers that are told as multiaddresses, where they are met without a
// hop: as the text says, and, where that is a name, where a connection from here has found
// the peer that it names.
func (h *Host) Reaches(addrs []string) (all []string) {
	for _, text := range addrs {
		info, err := peer.AddrInfoFromString(text)
		if err != nil {
			continue
		}
		for _, a := range info.Addrs {
			if at, ok := ipPort(a); ok {
				all = append(all, at)
			}
		}
		for _, c := range h.h.Network().ConnsToPeer(info.ID) {
			if at, ok := ipPort(c.RemoteMultiaddr()); ok && c.Stat().Direction == network.DirOutbound {
				all = append(all, at)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ipPort reads /ip4/A/tcp/P and the like; false is a name, or the way through a hop.
func ipPort(a multiaddr.Multiaddr) (string, bool) {
	if isCircuit(a) {
		return "", false
	}
	_, at, err := manet.DialArgs(a)
	if err != nil {
		return "", false
	}
	_, err = netip.ParseAddrPort(at)
	return at, err == nil
}

// List is the connections, by the names of their peers.
func (h *Host) List() (all []Peer) {
	for _, c := range h.h.Network().Conns() {
		all = append(all, Peer{
			ID: c.RemotePeer().String(), Addr: c.RemoteMultiaddr().String(), Inbound: c.Stat().Direction == network.DirInbound,
			Relayed: isCircuit(c.RemoteMultiaddr()), Since: c.Stat().Opened,
		})
	}
	slices.SortFunc(all, func(a, b Peer) int { return strings.Compare(a.ID+a.Addr, b.ID+b.Addr) })
	return all
}
