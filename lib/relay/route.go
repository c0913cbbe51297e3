package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
	"top/lib/wire"
)

// routes is the table of relay.sock (docs/contract.md, "Sockets"). Everything on it
// tells of its owner's messages, so that all of it is the owner's alone.
func (d *Daemon) routes() []sock.Route {
	w := sock.Write
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: w, Handle: d.getStatus},
		{Method: "POST", Path: "/v1/messages", Access: w, MaxBody: sock.Unlimited, Handle: d.postMessage},
		{Method: "GET", Path: "/v1/messages", Access: w, Handle: d.getMessages},
		{Method: "GET", Path: "/v1/messages/{id}", Access: w, Handle: d.getMessage},
		{Method: "GET", Path: "/v1/messages/{id}/body", Access: w, Handle: d.getBody},
		{Method: "POST", Path: "/v1/read", Access: w, Handle: d.postRead},
		{Method: "GET", Path: "/v1/correspondents", Access: w, Handle: d.getCorrespondents},
		{Method: "POST", Path: "/v1/correspondents", Access: w, Handle: d.postCorrespondent},
		{Method: "GET", Path: "/v1/peers", Access: w, Handle: d.getPeers},
		{Method: "GET", Path: "/v1/routes", Access: w, Handle: d.getRoutes},
	}
}

func (d *Daemon) getStatus(c *sock.Call) error {
	s := api.RelayStatus{
		Type: "relay-status", Address: d.address, Chain: d.chain, Device: deviceName(d.cert.Key), Addrs: []string{}, Relays: []api.RelayLink{},
		Providing: d.cfg.Provide, Version: top.Version, UptimeMs: top.Count(d.now().Sub(d.start).Milliseconds()),
	}
	d.mu.Lock()
	a, p := d.agent, d.provider
	s.Problem = d.problem
	d.mu.Unlock()
	if a == nil {
		return c.JSON(s)
	}
	s.Addrs, s.Reachability = d.host.Addrs(), d.host.Reachability()
	s.Peer, _ = Addr(d.cfg.NodeKey)
	a.fillStatus(&s)
	if p != nil {
		node := top.NodeID(d.cfg.NodeKey.Public())
		s.Node, s.Held = &node, p.held()
		p.mu.Lock()
		if p.offer.Service == "" && s.Problem == "" {
			s.Problem = "this node offers no relaying on the chain yet (top-wallet register --offer service=relay,unit=message,price=0.00001,window=4096 --addr " + c0(s.Addrs) + ")"
		}
		p.mu.Unlock()
	}
	return c.JSON(s)
}

func c0(all []string) string {
	if len(all) == 0 {
		return "ADDR"
	}
	return all[0]
}

func (a *agent) fillStatus(s *api.RelayStatus) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.record != nil {
		s.Mailbox, s.Published = top.Count(a.record.Seq), a.onChain
	}
	s.Inbox = top.Count(a.seqs.Inbox)
	for _, m := range a.msgs {
		if rank[m.State] == 0 {
			s.Queued++
		}
	}
	for _, l := range a.links {
		s.Relays = append(s.Relays, l.status())
	}
	slices.SortFunc(s.Relays, func(x, y api.RelayLink) int { return bytes.Compare(x.Node[:], y.Node[:]) })
	each(a.db.db, key('r'), key('r'), func(_, _ []byte) (bool, error) {
		s.Requests++
		return true, nil
	})
}

func (l *link) status() api.RelayLink {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := api.RelayLink{Node: l.node, Name: l.row.Name, Addr: c0(l.row.Addrs), Connected: l.up, Receives: l.receives, RTTMicros: top.Count(l.rtt.Microseconds())}
	if l.err != nil {
		r.Error = l.err.Error()
	}
	for _, n := range l.lanes {
		n.mu.Lock()
		id := n.channel
		r.Channel, r.Cap = &id, n.st.Config.Cap
		r.Spent += n.sender.Spent()
		n.mu.Unlock()
	}
	return r
}

// postMessage takes a body and answers with its state as it changes, until the one
// that is waited for.
func (d *Daemon) postMessage(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	w := wish{id: c.Query("id"), name: c.Query("name"), lines: c.Query("lines") != ""}
	if w.to, err = top.ParseAddress(c.Query("to")); err != nil {
		return err
	}
	hold, err := c.Count("hold_s")
	if err != nil {
		return err
	}
	spend, err := c.Count("max_spend")
	if err != nil {
		return err
	}
	w.hold, w.maxSpend = time.Duration(min(hold, 1<<31))*time.Second, top.Amount(spend)
	until := c.Query("wait")
	if _, ok := rank[until]; !ok && until != "" {
		return top.Errorf(top.Invalid, "wait for %q: want queued, stored, delivered or read", until)
	}
	seq, err := a.accept(c.Context(), w, c.Body)
	if err != nil {
		return err
	}
	return a.watch(c, seq, until)
}

// watch streams a message's state until it is reached or over.
func (a *agent) watch(c *sock.Call, seq uint64, until string) error {
	var last []byte
	for {
		change := a.change()
		m, err := a.message(seq)
		if err != nil {
			return err
		}
		if m == nil {
			return top.Errorf(top.NotFound, "no message was sent with that id")
		}
		r := m.record()
		if b, err := json.Marshal(r); err != nil || !bytes.Equal(b, last) {
			if err := c.Record(r); err != nil {
				return err
			}
			last = b
		}
		if rank[m.State] >= rank[until] && rank[m.State] > 0 || until == "" || until == queued || isOver(m.State) && !(m.State == delivered && until == read) {
			return nil
		}
		select {
		case <-change:
		case <-c.Context().Done():
			return nil
		}
		// Progress that nobody could see is not told.
		if !pause(c.Context(), time.Millisecond) {
			return nil
		}
	}
}

// getMessages streams a box, and what comes into it.
func (d *Daemon) getMessages(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	since, err := c.Count("since")
	if err != nil {
		return err
	}
	box, ok := map[string]byte{"": 'i', "inbox": 'i', "requests": 'r', "sent": 'm'}[c.Query("box")]
	if !ok {
		return top.Errorf(top.Invalid, "box %q: want inbox, requests or sent", c.Query("box"))
	}
	c.Begin()
	for {
		change := a.change()
		err := each(a.db.db, key(box), key(box, u64(since+1)), func(k, v []byte) (bool, error) {
			since = number(k[1:])
			r, err := a.recordOf(box, since, v)
			if err != nil {
				return false, err
			}
			return true, c.Record(r)
		})
		if err != nil || c.Query("follow") == "" {
			return err
		}
		select {
		case <-change:
		case <-c.Context().Done():
			return nil
		}
	}
}

// recordOf is a message of a box; of one that is under way memory knows more.
func (a *agent) recordOf(box byte, seq uint64, v []byte) (api.Message, error) {
	if box == 'm' {
		m, err := a.message(seq)
		if err != nil || m == nil {
			return api.Message{}, err
		}
		return m.record(), nil
	}
	var m inMessage
	err := unpack(bytes.Clone(v), &m)
	return m.record(), err
}

func (d *Daemon) getMessage(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	id := c.Arg("id")
	if m, err := a.received(id); err == nil {
		return c.JSON(m.record())
	}
	seq, err := a.wished(id)
	if err != nil {
		return err
	}
	m, err := a.message(seq)
	if err == nil && m == nil {
		err = top.Errorf(top.NotFound, "no message %q", id)
	}
	if err != nil {
		return err
	}
	return c.JSON(m.record())
}

func (d *Daemon) getBody(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	m, err := a.received(c.Arg("id"))
	if err != nil {
		return err
	}
	const kind = "application/octet-stream"
	if m.File == ([16]byte{}) {
		return c.Bytes(kind, m.Body)
	}
	f, err := os.Open(a.filePath(m.File))
	if err != nil {
		return top.Errorf(top.NotFound, "the body of %q is not here", m.ID)
	}
	defer f.Close()
	return c.Copy(kind, io.Reader(f))
}

func (d *Daemon) postRead(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	var q struct {
		IDs []string `json:"ids"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	return a.readBy(q.IDs)
}

func (d *Daemon) getCorrespondents(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	var all []api.Correspondent
	asks := map[top.Address]int{}
	err = each(a.db.db, key('r'), key('r'), func(_, v []byte) (bool, error) {
		var m inMessage
		if err := unpack(bytes.Clone(v), &m); err != nil {
			return false, err
		}
		if asks[m.From]++; asks[m.From] == 1 {
			at := top.UnixMilli(m.Received)
			all = append(all, api.Correspondent{Type: "correspondent", Address: m.From, State: "request", Since: &at})
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for i := range all {
		all[i].Messages = asks[all[i].Address]
	}
	err = each(a.db.db, key('a'), key('a'), func(k, v []byte) (bool, error) {
		all = append(all, api.Correspondent{Type: "correspondent", Address: top.Address(k[1:]), State: string(v)})
		return true, nil
	})
	if err != nil {
		return err
	}
	return sock.Records(c, all)
}

func (d *Daemon) postCorrespondent(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	var q api.Correspondent
	if err := c.Decode(&q); err != nil {
		return err
	}
	if q.Address.IsZero() || q.State != allowed && q.State != blocked {
		return top.Errorf(top.Invalid, "state %q of %s: want allowed or blocked", q.State, q.Address)
	}
	if err := a.judge(q.Address, q.State); err != nil {
		return err
	}
	q.Type = "correspondent"
	return c.JSON(q)
}

func (d *Daemon) getPeers(c *sock.Call) error {
	if _, err := d.running(); err != nil {
		return err
	}
	return sock.Records(c, d.peers())
}

// getRoutes shows the ways to a recipient, in the order in which they are tried.
func (d *Daemon) getRoutes(c *sock.Call) error {
	a, err := d.running()
	if err != nil {
		return err
	}
	all, err := a.nodes(c.Context())
	if err != nil {
		return err
	}
	if text := c.Query("to"); text != "" {
		to, err := top.ParseAddress(text)
		if err != nil {
			return err
		}
		rec, err := a.lookup(c.Context(), to)
		if err != nil {
			return err
		}
		var his []api.Node
		for _, id := range rec.Relays {
			if n := a.rowOf(id); n.Exists {
				his = append(his, n)
			} else {
				his = append(his, api.Node{Node: id})
			}
		}
		all = his
	}
	var rs []api.Route
	preferred := false
	for _, n := range all {
		r := a.route(c.Context(), n)
		if r.Reachable && !preferred {
			r.Preferred, preferred = true, true
		}
		rs = append(rs, r)
	}
	return sock.Records(c, rs)
}

func (a *agent) route(ctx context.Context, n api.Node) api.Route {
	o, _ := wireOffer(n)
	r := api.Route{Type: "route", Node: n.Node, Name: n.Name, Addr: c0(n.Addrs), Price: o.Price, Hold: o.Hold}
	l := a.link(n.Node, n)
	at := time.Now()
	err := l.await(ctx, relayWait)
	if err == nil {
		at = time.Now()
		_, err = l.ask(ctx, fLookup, a.d.address[:])
		if top.KindOf(err) == top.NotFound {
			err = nil
		}
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Reachable, r.RTTMicros = true, top.Count(time.Since(at).Microseconds())
	return r
}

// metrics writes Prometheus text.
func (d *Daemon) metrics(w io.Writer) {
	d.mu.Lock()
	a, p := d.agent, d.provider
	d.mu.Unlock()
	if a == nil {
		return
	}
	var s api.RelayStatus
	a.fillStatus(&s)
	fmt.Fprintf(w, "# TYPE top_relay_inbox gauge\ntop_relay_inbox %d\n# TYPE top_relay_queued gauge\ntop_relay_queued %d\n", s.Inbox, s.Queued)
	if p != nil {
		h := p.held()
		fmt.Fprintf(w, "# TYPE top_relay_held_messages gauge\ntop_relay_held_messages %d\n# TYPE top_relay_held_bytes gauge\ntop_relay_held_bytes %d\n# TYPE top_relay_earned_nano gauge\ntop_relay_earned_nano %s\n",
			h.Messages, h.Bytes, strconv.FormatUint(uint64(h.Earned), 10))
	}
}

// idList is the body of a skip.
func idList(ids []top.ID) []byte {
	var e wire.Encoder
	e.Uint(uint64(len(ids)))
	for _, id := range ids {
		e.Raw(id[:])
	}
	return e.Out()
}

// peers lists who is connected on the mesh. How far away a relay is, its link knows.
func (d *Daemon) peers() (all []api.RelayPeer) {
	rtt := map[string]time.Duration{}
	if a, err := d.running(); err == nil {
		a.mu.Lock()
		for _, l := range a.links {
			l.mu.Lock()
			for _, addr := range l.row.Addrs {
				rtt[addr[strings.LastIndexByte(addr, '/')+1:]] = l.rtt
			}
			l.mu.Unlock()
		}
		a.mu.Unlock()
	}
	for _, p := range d.host.List() {
		at := top.TimeOf(p.Since)
		r := api.RelayPeer{Type: "peer", Peer: p.ID, Addr: p.Addr, Direction: "out", Relayed: p.Relayed, RTTMicros: top.Count(rtt[p.ID].Microseconds()), Since: &at}
		if p.Inbound {
			r.Direction = "in"
		}
		all = append(all, r)
	}
	return all
}
