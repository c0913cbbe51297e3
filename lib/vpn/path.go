package vpn

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/top"
	"top/lib/wg"
)

// choose finds the nodes of a path, the entry first.
func (c *Client) choose(ctx context.Context, bad map[top.NodeID]time.Time) (path []target, err error) {
	c.say("choosing", nil)
	switch {
	case len(c.cfg.Via) > 0:
		all, err := c.named(ctx)
		if err != nil {
			return nil, err
		}
		if c.cfg.Hops > 1 {
			path = all
			break
		}
		for _, t := range all {
			if path == nil || c.now().After(bad[t.node]) && !c.now().After(bad[path[0].node]) {
				path = []target{t}
			}
		}
	case c.cfg.Hops == 1:
		all, err := c.look.within(ctx, c.cfg.Carry, c.cfg.MaxPrice, bad)
		if err == nil {
			all, err = c.look.best(ctx, all, c.cfg.Carry)
		}
		if err != nil {
			return nil, err
		}
		path = all[:1]
	default:
		if path, err = c.chain3(ctx, bad); err != nil {
			return nil, err
		}
	}
	for i := range path {
		if i > 0 && path[i].named() { // asked of the hop before, when there is a tunnel to it
			continue
		}
		if path[i], err = resolved(ctx, path[i]); err != nil {
			return nil, err
		}
		if err := fits(i, c.cfg.Hops, path[i]); err != nil {
			return nil, err
		}
	}
	return path, c.endpoints([]netip.AddrPort{path[0].end})
}

// named are the exits of --via, in its order.
func (c *Client) named(ctx context.Context) (all []target, err error) {
	for i, s := range c.cfg.Via {
		kind := c.cfg.Carry
		if c.cfg.Hops > 1 && i > 0 {
			kind = Plain
		}
		t, err := c.look.told(ctx, s, kind)
		if err != nil {
			return nil, err
		}
		if c.cfg.MaxPrice > 0 && t.offer.Price > c.cfg.MaxPrice {
			return nil, top.Errorf(top.Denied, "exit %s asks %s TOP for 64 KiB, --max-price is %s", t.name, t.offer.Price, c.cfg.MaxPrice)
		}
		if c.cfg.Hops > 1 && slices.ContainsFunc(all, func(o target) bool { return o.node == t.node }) {
			return nil, top.Errorf(top.Usage, "--via %s twice: an exit that is two hops sees who comes and where to (name another; look: top-vpn exits)", s)
		}
		all = append(all, t)
	}
	return all, nil
}

// fits refuses the middle of three hops that is met by IPv6: its header leaves what is
// within less than IPv6 may have.
func fits(hop, hops int, t target) error {
	if hop == 1 && hops == 3 && t.end.IsValid() && t.end.Addr().Is6() {
		return top.Errorf(top.Invalid, "exit %s is met by IPv6, and the middle of three hops has no room for that (name it first or last: --via)", t.name)
	}
	return nil
}

// maxEntries is how many exits are measured to be the first of several hops.
const maxEntries = 3

// chain3 chooses different nodes of different owners for the hops of a path. Only those
// that may be its entry are measured, few: every other sees nothing from our own address,
// now or before in this run, and is taken by what the registry and this home know (X4).
func (c *Client) chain3(ctx context.Context, bad map[top.NodeID]time.Time) (path []target, err error) {
	entries, err := c.look.within(ctx, c.cfg.Carry, c.cfg.MaxPrice, bad)
	if err != nil {
		return nil, err
	}
	rest, err := c.look.within(ctx, Plain, c.cfg.MaxPrice, bad)
	if err = cmp.Or(err, c.look.unseen(entries), c.look.unseen(rest)); err != nil {
		return nil, err
	}
	rest = slices.DeleteFunc(rest, func(t target) bool { return c.look.meets(t.node) })
	slices.SortStableFunc(entries, func(a, b target) int { // who knows us already
		return cmp.Compare(btoi(!c.look.meets(a.node)), btoi(!c.look.meets(b.node)))
	})
	most := min(maxEntries, len(entries))
	if known := slices.IndexFunc(entries, func(t target) bool { return !c.look.meets(t.node) }); known > 0 {
		most = min(most, known) // as long as one of them answers, nobody else needs to know us
	}
	for n := most; n > 0; n-- {
		later, err := apart(ctx, entries[:n], rest, c.cfg.Hops-1)
		if err != nil {
			return nil, err
		}
		if len(later) == c.cfg.Hops-1 {
			first, err := c.look.best(ctx, slices.Clone(entries[:n]), c.cfg.Carry)
			if err != nil {
				for _, t := range entries[:n] { // others, the next time
					bad[t.node] = c.now().Add(badFor)
				}
				return nil, err
			}
			if first[0], err = resolved(ctx, first[0]); err != nil {
				return nil, err
			}
			if slices.ContainsFunc(later, first[0].beside) {
				continue
			}
			return append(first[:1:1], later...), nil
		}
	}
	return nil, top.Errorf(top.NotFound, "%d hops want as many exits of different owners and machines, all but the first such that were not met from this address: of %d there are too few (name them: --via)", c.cfg.Hops, len(entries))
}

// apart are n of the rest whose nodes, owners and machines differ from each other's and
// from those of every entry.
func apart(ctx context.Context, entries, rest []target, n int) (path []target, err error) {
	taken := slices.Clone(entries)
	for i, t := range taken {
		if t.named() {
			continue // nobody is asked of whom is not measured yet: it may become a later hop
		}
		if taken[i], err = resolved(ctx, t); err != nil {
			return nil, err
		}
	}
	for _, t := range rest {
		if len(path) == n {
			break
		}
		if !t.named() {
			if t, err = resolved(ctx, t); err != nil {
				continue
			}
		}
		if slices.ContainsFunc(taken, func(p target) bool { return p.node == t.node || p.owner == t.owner || p.beside(t) }) || fits(len(path)+1, n+1, t) != nil {
			continue
		}
		path, taken = append(path, t), append(taken, t)
	}
	return path, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// hopError says which node a path broke at.
type hopError struct {
	node top.NodeID
	error
}

func (e *hopError) Unwrap() error { return e.error }

// carryOn builds a path and pays for it until it breaks.
func (c *Client) carryOn(ctx context.Context, path []target) error {
	g, ctx := errgroup.WithContext(ctx)
	var open []*tunnel
	var joints []*wg.Hop
	var hops []*purse
	entry, shut, err := way(ctx, path[0], c.mark())
	if err != nil {
		return &hopError{path[0].node, err}
	}
	defer func() {
		c.detach(hops)
		for i := len(open) - 1; i >= 0; i-- {
			open[i].close()
		}
		c.reset(open)
		for _, j := range joints {
			j.Close()
		}
		shut()
	}()
	g.Go(func() error {
		var before *wg.Hop
		for i, t := range path {
			up := make(chan struct{})
			cfg := tunnelConfig{To: t, Key: c.key, Line: c.line, Mark: c.mark(), Log: c.log, Now: c.now}
			if i == 0 {
				cfg.Way = entry
			} else {
				cfg.Way, cfg.Mark = before.Way(), 0
			}
			if i < len(path)-1 {
				before = wg.NewHop(netip.AddrPort{}, netip.AddrPort{}, mtuOf(i, len(path)))
				cfg.Key, cfg.Line = wg.NewPrivate(), before.Line()
				joints = append(joints, before)
			}
			tun, err := newTunnel(cfg)
			if err != nil {
				return &hopError{t.node, err}
			}
			open = append(open, tun)
			c.showWG(tun, i == len(path)-1)
			w := &purse{c: c, t: tun, hop: i, paid: make(chan struct{}, 1)}
			c.say("opening a session with "+t.name, nil)
			g.Go(func() error {
				if err := w.run(ctx, func() { close(up) }); err != nil {
					return &hopError{t.node, err}
				}
				return nil
			})
			select {
			case <-up:
			case <-ctx.Done():
				return ctx.Err()
			}
			hops = append(hops, w)
			if i < len(path)-1 {
				if err := c.lead(ctx, tun, before, path[:i+2]); err != nil {
					return &hopError{path[i+1].node, err}
				}
			}
		}
		return c.attach(hops)
	})
	err = g.Wait()
	for _, w := range slices.Backward(hops) { // through those before it
		w.end()
	}
	return err
}

// reset tells programs that the way of their connections is gone: they try again, by
// the next one.
func (c *Client) reset(open []*tunnel) {
	if len(open) == 0 || open[len(open)-1].line != c.line {
		return
	}
	const room = 16 // before a packet, for who writes it
	pkts := open[len(open)-1].table.Resets()
	for len(pkts) > 0 {
		n := min(len(pkts), c.line.BatchSize())
		bufs := make([][]byte, n)
		for i, p := range pkts[:n] {
			bufs[i] = append(make([]byte, room, room+len(p)), p...)
		}
		c.line.Write(bufs, room)
		pkts = pkts[n:]
	}
}

// showWG lets wg(8) look at the last hop, under the name of the interface.
func (c *Client) showWG(t *tunnel, last bool) {
	if c.tun == nil || !last {
		return
	}
	if err := t.dev.ServeUAPI(c.tun.Name()); err != nil {
		c.log.Warn("wg cannot look at this tunnel", "err", err)
	}
}

// seen is where a node is, seen from another: for tests both may be on one machine,
// whose loopback has an address of its own within a tunnel.
func (t target) seen(end netip.AddrPort) netip.AddrPort {
	if t.addr.Own && end.Addr().IsLoopback() {
		return netip.AddrPortFrom(host4(), end.Port())
	}
	return end
}

// inner is our address in a tunnel, of the family of another.
func (t *tunnel) inner(like netip.Addr, port uint16) netip.AddrPort {
	if like.Is4() {
		t.mu.Lock()
		defer t.mu.Unlock()
		return netip.AddrPortFrom(t.terms.Inner4, port)
	}
	return netip.AddrPortFrom(t.own, port)
}

// attach lets packets into a path that stands.
func (c *Client) attach(hops []*purse) error {
	last := hops[len(hops)-1].t
	last.mu.Lock()
	a4 := last.terms.Inner4
	last.mu.Unlock()
	c.mu.Lock()
	c.hops, c.rates = hops, make([]rate, len(hops))
	c.mu.Unlock()
	if err := c.address4(a4); err != nil {
		return err
	}
	for _, w := range hops {
		if err := c.look.saw(w.t.to.node, true); err != nil {
			c.log.Warn("note how an exit did", "err", err)
		}
	}
	c.mu.Lock()
	close(c.ready)
	first, near := !c.wasReady, cmp.Or(c.cfg.Socks, c.cfg.TUN)
	c.wasReady = true
	c.mu.Unlock()
	c.say("up", nil)
	c.log.Info("up", "exit", last.to.name, "hops", len(hops), "at", near)
	if first && c.cfg.Ready != nil {
		return c.cfg.Ready()
	}
	return nil
}

// detach takes a path out of use.
func (c *Client) detach(hops []*purse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range hops {
		c.past += w.spent()
	}
	if c.hops != nil {
		c.hops, c.ready = nil, make(chan struct{})
	}
}

// address4 takes the inner address that the exit gives, which is nearly always the
// one that we had.
func (c *Client) address4(a netip.Addr) error {
	c.mu.Lock()
	old := c.inner4
	c.inner4 = a
	c.mu.Unlock()
	if c.stack != nil && a != old {
		if err := c.stack.AddAddr(a); err != nil {
			return err
		}
		return c.stack.RemoveAddr(old)
	}
	if c.managed() {
		return c.around()
	}
	return nil
}

// spent is what this tunnel cost, all hops and paths.
func (c *Client) spent() top.Amount {
	c.mu.Lock()
	hops, all := c.hops, c.past
	c.mu.Unlock()
	for _, w := range hops {
		all += w.spent()
	}
	return all
}
