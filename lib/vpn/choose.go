package vpn

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/carry"
	"top/lib/home"
	"top/lib/top"
	"top/lib/wg"
)

// past is what this home saw of a node.
type past struct {
	Good int       // sessions that carried
	Bad  int       // that did not, or broke
	Last time.Time // when it was bad
}

// score is 0 to 100: Laplace's rule, so that a stranger has 50.
func (p past) score() int { return 100 * (p.Good + 1) / (p.Good + p.Bad + 2) }

// Looker knows exits: those of the registry, and what this home saw of them.
type Looker struct {
	Home  home.Dir
	Chain *api.Chain
	Mark  uint32
	Now   func() time.Time
	Allow func([]netip.AddrPort) error // lets our packets out to what is to be looked at; nil is no firewall of ours

	mu  sync.Mutex
	met map[top.NodeID]bool // was sent something from our own address
}

func (l *Looker) path() string { return l.Home.Path("vpn", "exits.json") }

func (l *Looker) pasts() (map[string]past, error) {
	all := map[string]past{}
	b, err := os.ReadFile(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", l.path(), err)
	}
	return all, nil
}

// saw notes how a node did.
func (l *Looker) saw(n top.NodeID, good bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := l.pasts()
	if err != nil {
		return err
	}
	p := all[n.String()]
	if good {
		p.Good++
	} else {
		p.Bad, p.Last = p.Bad+1, l.Now()
	}
	all[n.String()] = p
	b, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("write %s: %w", l.path(), err)
	}
	return home.WriteFile(l.path(), b, 0o600)
}

// targets are the exits of the registry, one for each carriage.
func (l *Looker) targets(ctx context.Context) (all []target, err error) {
	err = l.Chain.Nodes(ctx, Service, func(n api.Node) error {
		o, ok := offerOf(n)
		if !ok {
			return nil
		}
		for _, text := range n.Addrs {
			a, err := ParseAddress(text)
			if err != nil {
				continue // another service's, or nonsense
			}
			all = append(all, target{node: n.Node, owner: n.Owner, name: n.Name, addr: a, offer: o, capacity: n.Capacity})
		}
		return nil
	})
	return all, err
}

// told is an exit that somebody named: a node, its name, or an address of ours with
// its node.
func (l *Looker) told(ctx context.Context, s, kind string) (target, error) {
	all, err := l.targets(ctx)
	if err != nil {
		return target{}, err
	}
	if a, err := ParseAddress(s); err == nil {
		i := slices.IndexFunc(all, func(t target) bool { return t.node == a.Node })
		if i >= 0 {
			all[i].addr = a
			return all[i], nil
		}
		n, err := l.Chain.Node(ctx, a.Node)
		if err != nil {
			return target{}, err
		}
		o, ok := offerOf(n)
		if !n.Exists || !ok {
			return target{}, top.Errorf(top.NotFound, "address %s names no node that sells tunnels (it needs node=topnode1…)", s)
		}
		return target{node: n.Node, owner: n.Owner, name: n.Name, addr: a, offer: o}, nil
	}
	var names []string
	for _, t := range all {
		if t.addr.Carry == kind && (t.name == s || t.node.String() == s) {
			return t, nil
		}
		names = append(names, t.name+" by "+t.addr.Carry)
	}
	if len(names) == 0 {
		return target{}, noneYet()
	}
	more := ""
	if n := len(names) - maxNamed; n > 0 {
		names, more = names[:maxNamed], fmt.Sprintf(", and %d more", n)
	}
	return target{}, top.Errorf(top.NotFound, "no exit %s by %s is registered (there are: %s%s; look: top-vpn exits)", s, kind, strings.Join(names, ", "), more)
}

const maxNamed = 20 // exits in an error

func noneYet() error {
	return top.Errorf(top.NotFound, "no exit is registered on the chain yet (sell one: top-vpn serve --provide, and then top-wallet register --offer service=vpn,unit=64KiB,price=0.000001,window=4096 --addr ADDR, which its status shows)")
}

// resolved finds the address of an exit's socket.
func resolved(ctx context.Context, t target) (target, error) {
	if t.end.IsValid() {
		return t, nil
	}
	ip, err := netip.ParseAddr(t.addr.Host)
	if err != nil {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", t.addr.Host)
		if err != nil || len(ips) == 0 {
			return t, top.Errorf(top.Offline, "exit %s: no address of %s: %v", t.name, t.addr.Host, err)
		}
		ip = ips[0].Unmap()
	}
	t.end, err = t.addr.endpoint(ip)
	if err != nil {
		return t, top.Errorf(top.Invalid, "exit %s: %v", t.name, err)
	}
	return t, nil
}

// way is how datagrams reach an entry: nil is UDP. It is closed after the tunnel.
func way(ctx context.Context, t target, mark uint32) (w wg.Way, shut func(), err error) {
	if t.addr.Carry == Plain {
		return nil, func() {}, nil
	}
	kind := carry.QUIC
	if t.addr.Carry == WSS {
		kind = carry.WSS
	}
	// Which certificate it shows says nothing of who it is: the tunnel inside does.
	c, err := carry.Dial(ctx, carry.DialConfig{Kind: kind, Addr: t.end.String(), ServerName: cmp.Or(t.addr.Server, serverName(t.addr.Host)), Key: t.addr.Key, AnyCertificate: true, Pad: true, Control: marked(mark)})
	if err != nil {
		return nil, nil, err
	}
	return wg.NewCarried(c), func() { c.Close() }, nil
}

func serverName(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

const probeWait = 2 * time.Second

// Look measures a node: how long an answer takes through a fresh tunnel.
func (l *Looker) look(ctx context.Context, t target) (time.Duration, error) {
	l.mu.Lock()
	if l.met == nil {
		l.met = map[top.NodeID]bool{}
	}
	l.met[t.node] = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	t, err := resolved(ctx, t)
	if err != nil {
		return 0, err
	}
	w, shut, err := way(ctx, t, l.Mark)
	if err != nil {
		return 0, err
	}
	defer shut()
	line := newIdle()
	defer line.Close()
	tun, err := newTunnel(tunnelConfig{To: t, Key: wg.NewPrivate(), Line: line, Way: w, Mark: l.Mark, Log: quiet(), Now: l.Now})
	if err != nil {
		return 0, err
	}
	defer tun.close()
	if _, err := tun.reach(ctx); err != nil { // with the handshake
		return 0, err
	}
	tun.rtt.Store(0)
	return tun.reach(ctx)
}

const maxLooks = 8 // at once

// Exits calls each with every exit of the registry, as it is found; with look it is
// measured too.
func (l *Looker) Exits(ctx context.Context, look bool, each func(api.VPNExit) error) error {
	all, err := l.targets(ctx)
	if err != nil {
		return err
	}
	pasts, err := l.pasts()
	if err != nil {
		return err
	}
	found := make([]api.VPNExit, len(all))
	var done sync.WaitGroup
	slots := make(chan struct{}, maxLooks)
	for i, t := range all {
		done.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			p := pasts[t.node.String()]
			e := api.VPNExit{
				Type: "exit", Node: t.node, Name: t.name, Addr: t.addr.String(), Carry: []string{t.addr.Carry}, Class: t.addr.Class, Region: t.addr.Region,
				Price: t.offer.Price, PerGiB: perGiB(t.offer.Price), Capacity: t.capacity, Score: p.score(), Uses: p.Good + p.Bad,
			}
			if look {
				rtt, err := l.look(ctx, t)
				e.Reachable, e.RTTMicros = err == nil, top.Count(rtt.Microseconds())
				if err != nil {
					e.Error = err.Error()
				}
			}
			found[i] = e
		})
	}
	done.Wait()
	for _, e := range found {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

// within are the exits by a carriage within a price that are not bad; with none the error
// says what ruled out how many. A price of 0 is any.
func (l *Looker) within(ctx context.Context, kind string, most top.Amount, bad map[top.NodeID]time.Time) (ok []target, err error) {
	all, err := l.targets(ctx)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, noneYet()
	}
	const other, dear, failed = 1, 2, 3 // the rule that an exit came furthest to
	ruled, least := map[top.NodeID]int{}, top.MaxSupply
	for _, t := range all {
		rule := other
		if t.addr.Carry == kind {
			least = min(least, t.offer.Price)
			switch {
			case most > 0 && t.offer.Price > most:
				rule = dear
			case l.Now().Before(bad[t.node]):
				rule = failed
			default:
				ok = append(ok, t)
				continue
			}
		}
		ruled[t.node] = max(ruled[t.node], rule)
	}
	if len(ok) > 0 {
		return ok, nil
	}
	var count [failed + 1]int
	for _, rule := range ruled {
		count[rule]++
	}
	out, why := []string{}, top.NotFound
	if n := count[other]; n > 0 {
		out = append(out, fmt.Sprintf("%d offer no --carry %s", n, kind))
	}
	if n := count[dear]; n > 0 {
		out, why = append(out, fmt.Sprintf("%d ask more than --max-price %s TOP for 64 KiB (the cheapest: %s)", n, most, least)), top.Denied
	}
	if n := count[failed]; n > 0 { // it passes
		out, why = append(out, fmt.Sprintf("%d failed within the last minute", n)), top.Offline
	}
	return nil, top.Errorf(why, "of %d exits that are registered none is left: %s (look: top-vpn exits)", len(ruled), strings.Join(out, ", "))
}

// unseen orders exits without a packet to any: by what this home saw of them, and among
// equals by lot.
func (l *Looker) unseen(all []target) error {
	pasts, err := l.pasts()
	if err != nil {
		return err
	}
	lot := map[top.NodeID]uint64{}
	for _, t := range all {
		var b [8]byte
		rand.Read(b[:])
		lot[t.node] = binary.NativeEndian.Uint64(b[:])
	}
	slices.SortFunc(all, func(a, b target) int {
		return cmp.Or(cmp.Compare(pasts[b.node.String()].score(), pasts[a.node.String()].score()), cmp.Compare(lot[a.node], lot[b.node]))
	})
	return nil
}

// meets says whether a node was sent something from our own address.
func (l *Looker) meets(n top.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.met[n]
}

// best orders exits: those that answer, by what this home saw of them and how near
// they are.
func (l *Looker) best(ctx context.Context, targets []target, kind string) (all []target, err error) {
	pasts, err := l.pasts()
	if err != nil {
		return nil, err
	}
	if l.Allow != nil {
		var ends []netip.AddrPort
		for i, t := range targets {
			if t, err := resolved(ctx, t); err == nil {
				targets[i] = t
				ends = append(ends, t.end)
			}
		}
		if err := l.Allow(ends); err != nil {
			return nil, err
		}
	}
	type looked struct {
		t    target
		cost float64
	}
	var mu sync.Mutex
	var good []looked
	var done sync.WaitGroup
	slots := make(chan struct{}, maxLooks)
	for _, t := range targets {
		done.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			rtt, err := l.look(ctx, t)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			// A node that fails half the time counts as twice as far, at least 1 ms.
			good = append(good, looked{t, float64(max(rtt, time.Millisecond)) * 100 / float64(max(1, pasts[t.node.String()].score()))})
		})
	}
	done.Wait()
	slices.SortFunc(good, func(a, b looked) int { return cmp.Compare(a.cost, b.cost) })
	for _, g := range good {
		all = append(all, g.t)
	}
	if len(all) == 0 {
		return nil, top.Errorf(top.Offline, "none of %d exits by %s answers (look: top-vpn exits)", len(targets), kind)
	}
	return all, nil
}
