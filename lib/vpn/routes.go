package vpn

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

func (e *Exit) routes() []sock.Route {
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: sock.Write, Handle: func(c *sock.Call) error { return c.JSON(e.status()) }},
		{Method: "GET", Path: "/v1/meters", Access: sock.Write, Handle: func(c *sock.Call) error { return meters(c, e.meters) }},
	}
}

func (c *Client) routes() []sock.Route {
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: sock.Write, Handle: func(k *sock.Call) error { return k.JSON(c.status()) }},
		{Method: "GET", Path: "/v1/meters", Access: sock.Write, Handle: func(k *sock.Call) error { return meters(k, c.meters) }},
		{Method: "POST", Path: "/v1/down", Access: sock.Write, Handle: func(k *sock.Call) error {
			c.cancel()
			return k.JSON(c.status())
		}},
	}
}

// meters answers with the counters once, or again and again.
func meters(c *sock.Call, now func() []api.VPNMeter) error {
	ms, err := c.Count("every_ms")
	if err != nil {
		return err
	}
	if ms == 0 {
		return sock.Records(c, now())
	}
	c.Begin()
	for {
		for _, m := range now() {
			if err := c.Record(m); err != nil {
				return err
			}
		}
		if !pause(c.Context(), time.Duration(min(ms, 3_600_000))*time.Millisecond) {
			return nil
		}
	}
}

func (e *Exit) health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.problem != "" {
		return top.Errorf(top.Busy, "%s", e.problem)
	}
	return nil
}

func (c *Client) health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hops == nil {
		return top.Errorf(top.Busy, "%s: %s", c.state, c.problem)
	}
	return nil
}

// addresses are what to register.
func (e *Exit) addresses() (all []string) {
	host := e.cfg.Host
	if host == "" {
		host = reachable()
	}
	a := Address{Carry: Plain, Host: host, Port: strconv.Itoa(int(e.dev.Port())), Key: e.key.Public(), Class: string(e.cfg.Policy.Class()), Region: e.cfg.Region, Own: e.cfg.AllowLoopback}
	all = append(all, a.String())
	for _, h := range e.hidden {
		a.Carry, a.Port, a.Server = h.kind, strconv.Itoa(int(h.port)), h.server
		all = append(all, a.String())
	}
	return all
}

func (e *Exit) status() api.VPNStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	node := top.NodeID(e.cfg.NodeKey.Public())
	s := api.VPNStatus{
		Type: "vpn-status", Role: "exit", State: "serving", Chain: e.chain, Node: &node, Key: e.key.Public().String(), Class: string(e.cfg.Policy.Class()),
		Policy: e.cfg.Policy.String(), Region: e.cfg.Region, Price: e.offer.Price, AllowLoopback: e.cfg.AllowLoopback, Problem: e.problem,
		Version: top.Version, UptimeMs: top.Count(e.now().Sub(e.start).Milliseconds()),
	}
	if e.up {
		s.Addrs, s.Interface, s.Strangers = e.addresses(), e.net.name, e.admit.Strangers()
	}
	for _, a := range e.accounts {
		s.Earned += a.meter.Owed()
		for _, v := range a.sessions {
			if !v.over {
				s.Peers++
			}
		}
	}
	switch {
	case s.Problem != "":
		s.State = "waiting"
	case e.offer.Service == "":
		s.Problem = "not registered: nobody can pay it (top-wallet register --offer service=vpn,unit=64KiB,price=0.000001,window=4096 --addr ADDR)"
	}
	return s
}

func (e *Exit) meters() (all []api.VPNMeter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.accounts {
		for id, s := range a.sessions {
			m := api.VPNMeter{
				Type: "vpn-meter", Role: "exit", Time: top.TimeOf(e.now()), Session: id, Channel: a.cfg.Channel, Node: a.cfg.Node, Payer: a.cfg.Payer,
				Up: top.Count(s.up.Load()), Down: top.Count(s.down.Load()), Lost: top.Count(s.lost), Held: top.Count(s.gate.held()), Dropped: top.Count(s.gate.dropped.Load()),
				Control: top.Count(e.bytes.Load()), Price: s.ticket.Price, Unverified: s.lent(), State: "serving",
			}
			units := max(s.paidUnits(), s.logged)
			m.Units, m.Acknowledged = top.Count(units), top.Count(units*unit)
			m.Owed, _ = s.ticket.Price.Mul(units)
			if s.why != "" {
				m.State = s.why
			}
			if s.over {
				m.State = "over"
			}
			all = append(all, m)
		}
	}
	return all
}

func (e *Exit) metrics(w io.Writer) {
	s := e.status()
	fmt.Fprintf(w, "top_vpn_peers %d\ntop_vpn_strangers %d\ntop_vpn_earned_nano %d\ntop_vpn_control_bytes_total %d\n", s.Peers, s.Strangers, uint64(s.Earned), e.bytes.Load())
}

func (c *Client) status() api.VPNStatus {
	c.mu.Lock()
	s := api.VPNStatus{
		Type: "vpn-status", Role: "client", State: c.state, Chain: c.chain, Problem: c.problem, Socks: c.cfg.Socks, KillSwitch: c.cfg.KillSwitch && c.managed(),
		Version: top.Version, UptimeMs: top.Count(c.now().Sub(c.start).Milliseconds()),
	}
	hops := c.hops
	for _, a := range c.spared {
		s.Spared = append(s.Spared, a.String())
	}
	c.mu.Unlock()
	if c.tun != nil {
		s.Interface = c.tun.Name()
	}
	for i, w := range hops {
		h := w.record()
		if i > 0 {
			h.Path = "relayed through " + s.Hops[i-1].Name
		}
		h.UpKbps, h.DownKbps = c.rate(i, w)
		h.MTU = w.t.line.MTU()
		h.MostPaid = c.cfg.MaxSpend
		if h.Problem != "" && s.Problem == "" {
			s.Problem = h.Problem
		}
		s.AllowLoopback = s.AllowLoopback || h.AllowsOwn
		s.Hops = append(s.Hops, h)
	}
	if len(hops) > 1 {
		s.Shows = shown
	}
	return s
}

const shown = "the chain shows which account funded each hop's payer key, when, how much, and what came back; whoever runs all hops, or watches both ends, can match times and sizes (docs/threats.md, \"Hops\")"

// rate is what a hop carried since it was last asked, over a second at least.
func (c *Client) rate(i int, w *purse) (up, down top.Count) {
	w.mu.Lock()
	sent, got := w.p.sent.Load(), w.p.got.Load()
	w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if i >= len(c.rates) {
		return 0, 0
	}
	r := &c.rates[i]
	now := c.now()
	if ms := uint64(now.Sub(r.at).Milliseconds()); r.at.IsZero() || sent < r.up || got < r.down {
		*r = rate{at: now, up: sent, down: got}
	} else if ms >= 1000 {
		*r = rate{now, sent, got, (sent - r.up) * 8 / ms, (got - r.down) * 8 / ms}
	}
	return top.Count(r.upKbps), top.Count(r.downKbps)
}

// stoppedLocked is why no packet passes any more, or "": the exit says so, or we do not
// pay on and what is paid is used.
func (w *purse) stoppedLocked() string {
	switch s := &w.still; {
	case w.why != "":
		return "the exit stopped: " + w.why
	case w.problem != "" && s.said && s.limit < s.down+w.p.sent.Load()+mtuPlain:
		return w.problem
	}
	return ""
}

// record is a hop as its client sees it.
func (w *purse) record() api.VPNHop {
	t := w.t
	w.mu.Lock()
	defer w.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	h := api.VPNHop{
		Node: t.to.node, Name: t.to.name, Class: t.terms.Class, Region: t.to.addr.Region, Endpoint: t.to.end.String(), Path: "direct", Carry: t.to.addr.Carry,
		Channel: w.ch.Channel, Payer: w.ch.Payer, Session: w.p.id, Inner: []string{t.terms.Inner4.String(), t.own.String()}, RTTMicros: top.Count(t.rtt.Load() / 1000),
		Price: t.to.offer.Price, Paid: w.before + w.spentLocked(), Cap: w.ch.Cap, ChannelEnds: top.TimeOf(w.ch.Expiry), State: "carrying", Problem: w.problem,
		AllowsOwn: t.terms.Own, LastAnswerMs: top.Count(t.silent().Milliseconds()),
	}
	for _, a := range t.terms.DNS {
		h.DNS = append(h.DNS, a.String())
	}
	if w.sent > 0 {
		h.LossPpm = int((w.sent - w.got) * 1_000_000 / w.sent)
	}
	if why := w.stoppedLocked(); why != "" {
		h.State, h.Problem = "stopped", why
	}
	if all, err := t.dev.Contacts(); err == nil && len(all) == 1 && !all[0].Handshake.IsZero() {
		h.HandshakeMs = top.Count(time.Since(all[0].Handshake).Milliseconds())
		h.Endpoint = all[0].Endpoint
	}
	return h
}

func (c *Client) meters() (all []api.VPNMeter) {
	c.mu.Lock()
	hops := c.hops
	c.mu.Unlock()
	for _, w := range hops {
		w.mu.Lock()
		p := w.p
		acked := w.ackedLocked()
		m := api.VPNMeter{
			Type: "vpn-meter", Role: "client", Time: top.TimeOf(c.now()), Session: p.id, Channel: w.ch.Channel, Node: w.t.to.node, Payer: w.ch.Payer,
			Up: top.Count(p.sent.Load()), Down: top.Count(p.got.Load()), Acknowledged: top.Count(acked), Units: top.Count(acked / unit),
			Unsolicited: top.Count(p.unsolicited.Load()), Duplicate: top.Count(p.duplicate.Load()), Lost: top.Count(w.sent - w.got),
			Held: top.Count(p.gate.held()), Dropped: top.Count(p.gate.dropped.Load()), Control: top.Count(w.t.control.Load()),
			Price: w.t.to.offer.Price, Owed: w.spentLocked(), State: "serving",
		}
		if why := w.stoppedLocked(); why != "" {
			m.State = why
		}
		w.mu.Unlock()
		all = append(all, m)
	}
	return all
}
