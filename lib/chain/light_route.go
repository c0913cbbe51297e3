package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// routes is the same table that a full node has.
func (l *Light) routes() []sock.Route {
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Handle: l.status},
		{Method: "GET", Path: "/v1/params", Handle: l.getParams},
		{Method: "GET", Path: "/v1/genesis", Handle: func(c *sock.Call) error { return c.Bytes("application/json", l.raw) }},
		{Method: "GET", Path: "/v1/headers/{height}", Handle: l.header},
		{Method: "GET", Path: "/v1/accounts/{address}", Handle: l.account},
		{Method: "GET", Path: "/v1/accounts/{address}/history", Handle: l.history},
		{Method: "GET", Path: "/v1/accounts/{address}/channels", Handle: l.channelsOf},
		{Method: "GET", Path: "/v1/channels/{id}", Handle: l.channel},
		{Method: "GET", Path: "/v1/nodes", Handle: l.nodes},
		{Method: "GET", Path: "/v1/nodes/{id}", Handle: l.node},
		{Method: "POST", Path: "/v1/txs", Access: sock.Write, MaxBody: maxSubmit, Handle: l.submit},
		{Method: "GET", Path: "/v1/txs/{id}", Handle: l.tx},
		{Method: "GET", Path: "/v1/events", Handle: l.events},
	}
}

func (l *Light) status(c *sock.Call) error {
	h, ok := l.headers.head()
	r := api.ChainStatus{
		Type: "chain-status", Chain: l.genesis.Chain, Role: "light", Genesis: l.genesis.Hash, Version: top.Version,
		Height: h.Height, Time: h.Time, Header: h.Hash, Root: h.Root, Addresses: []string{},
		Stale: !ok || time.Since(h.Time.Time) > staleAfter, UptimeMs: top.Count(time.Since(l.start).Milliseconds()),
	}
	l.headers.mu.Lock()
	if l.headers.first != nil {
		r.TrustHeight = top.Height(l.headers.first.Height)
		r.Validators = l.headers.last.ValidatorSet.Size()
	}
	l.headers.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Peers, r.Evidence = l.alive, l.evidence
	p := l.params
	r.FeePerByte, r.AccountFee, r.TxKinds = p.FeePerByte, p.AccountFee, p.Kinds
	r.Supply, r.Burned, r.Accounts = p.Supply, p.Burned, p.Accounts
	return c.JSON(r)
}

func (l *Light) getParams(c *sock.Call) error {
	var r api.Params
	err := l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		r, err = l.askParams(ctx, p)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (l *Light) header(c *sock.Call) error {
	h, wait, err := heightArg(c)
	if err != nil {
		return err
	}
	var lb *types.LightBlock
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		lb, err = l.headers.verified(ctx, p, h, wait)
		return err
	})
	if err != nil {
		return err
	}
	b, err := encodeLightBlock(lb)
	if err != nil {
		return err
	}
	return c.JSON(api.LightBlock{Type: "light-block", Height: top.Height(lb.Height), Block: b})
}

func (l *Light) account(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	var r api.Account
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		r, err = l.askAccount(ctx, p, a)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (l *Light) askAccount(ctx context.Context, p *peer, a top.Address) (r api.Account, err error) {
	params, err := l.meta(ctx, p)
	if err != nil {
		return r, err
	}
	got, err := p.api.Account(ctx, a)
	if err != nil {
		return r, err
	}
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, err
	}
	var proof ledger.AccountProof
	if err := proof.Decode(got.Proof); err != nil {
		return r, err
	}
	acc, index, exists, err := proof.Verify(at.Root)
	if err != nil {
		return r, err
	}
	if proof.Address != a {
		return r, fmt.Errorf("the proof is of %s, not of %s: %w", proof.Address, a, top.ErrFailed)
	}
	return accountRecord(params, a, acc, index, exists, at, got.Proof), nil
}

func (l *Light) channel(c *sock.Call) error {
	id, err := top.ParseID(c.Arg("id"))
	if err != nil {
		return err
	}
	var r api.Channel
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		got, err := p.api.Channel(ctx, id)
		if err != nil {
			return err
		}
		r, err = l.checkChannel(ctx, p, id, got)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// checkChannel proves a channel. Its parties are proven as indexes; their
// addresses are proven with their accounts.
func (l *Light) checkChannel(ctx context.Context, p *peer, id top.ID, got api.Channel) (r api.Channel, err error) {
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, err
	}
	var proof ledger.ChannelProof
	if err := proof.Decode(got.Proof); err != nil {
		return r, err
	}
	ch, exists, err := proof.Verify(at.Root)
	if err != nil {
		return r, err
	}
	if proof.ID() != id {
		return r, fmt.Errorf("the proof is of channel %s, not of %s: %w", proof.ID(), id, top.ErrFailed)
	}
	r = channelRecord(id, ch, exists, at, got.Proof)
	if !exists {
		return r, nil
	}
	if _, err := l.owner(ctx, p, got.Payer, ch.Payer); err != nil {
		return r, err
	}
	provider, err := l.owner(ctx, p, got.Provider, ch.Provider)
	if err != nil {
		return r, err
	}
	r.Payer, r.Provider, r.Node = got.Payer, got.Provider, provider.Node
	return r, nil
}

// owner proves that an address has an index.
func (l *Light) owner(ctx context.Context, p *peer, a top.Address, index uint32) (api.Account, error) {
	r, err := l.askAccount(ctx, p, a)
	if err == nil && (!r.Exists || r.Index != index) {
		err = fmt.Errorf("%s is not account %d: %w", a, index, top.ErrFailed)
	}
	return r, err
}

// channelsOf proves each channel of an account. That none of those it pays for
// is missing is proven too; of those that pay it, a peer can hide one.
func (l *Light) channelsOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	var rs []api.Channel
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) error {
		rs = nil
		acc, err := l.askAccount(ctx, p, a)
		if err != nil || !acc.Exists {
			return err
		}
		err = p.api.Channels(ctx, a, func(got api.Channel) error {
			r, err := l.checkChannel(ctx, p, got.Channel, got)
			if err == nil && r.Exists {
				rs = append(rs, r)
			}
			return err
		})
		pays := uint32(0)
		for _, r := range rs {
			if r.PayerIndex == acc.Index {
				pays++
			}
		}
		if err == nil && pays != acc.Channels {
			return fmt.Errorf("%d of %d channels were shown: %w", pays, acc.Channels, top.ErrFailed)
		}
		return err
	})
	if err != nil {
		return err
	}
	return records(c, rs)
}

func (l *Light) node(c *sock.Call) error {
	id, err := top.ParseNodeID(c.Arg("id"))
	if err != nil {
		return err
	}
	var r api.Node
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		got, err := p.api.Node(ctx, id)
		if err != nil {
			return err
		}
		r, err = l.checkNode(ctx, p, id, got)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (l *Light) checkNode(ctx context.Context, p *peer, id top.NodeID, got api.Node) (r api.Node, err error) {
	at, err := l.proven(ctx, p, got.At)
	if err != nil {
		return r, err
	}
	var proof ledger.NodeProof
	if err := proof.Decode(got.Proof); err != nil {
		return r, err
	}
	row, exists, err := proof.Verify(at.Root)
	if err != nil {
		return r, err
	}
	if proof.ID() != id {
		return r, fmt.Errorf("the proof is of node %s, not of %s: %w", proof.ID(), id, top.ErrFailed)
	}
	r = nodeRecord(id, row, exists, at, got.Proof)
	if exists {
		if _, err := l.owner(ctx, p, got.Owner, row.Owner); err != nil {
			return r, err
		}
		r.Owner = got.Owner
	}
	return r, nil
}

// nodes proves each row; a peer can hide one, which another peer may show.
func (l *Light) nodes(c *sock.Call) error {
	var rs []api.Node
	err := l.ask(c.Context(), func(ctx context.Context, p *peer) error {
		rs = nil
		return p.api.Nodes(ctx, c.Query("service"), func(got api.Node) error {
			r, err := l.checkNode(ctx, p, got.Node, got)
			if err == nil && r.Exists {
				rs = append(rs, r)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return records(c, rs)
}

// history passes on what a full node tells. Which transactions there are can be
// proven one by one; that none is missing cannot.
func (l *Light) history(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	since, err := count(c, "since")
	if err != nil {
		return err
	}
	limit, err := count(c, "limit")
	if err != nil {
		return err
	}
	begun := false
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) error {
		return p.api.History(ctx, a, top.Count(since), int(limit), func(e api.Entry) error {
			begun = true
			since = uint64(e.Seq)
			return c.Record(e)
		})
	})
	if err == nil && !begun {
		c.Begin()
	}
	return err
}

// submit hands a transaction to every peer: one that drops it is not enough to
// keep it from the chain.
func (l *Light) submit(c *sock.Call) error {
	var q struct {
		Tx api.Bytes `json:"tx"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	var refused error
	taken := false
	for _, p := range l.peers {
		ctx, cancel := context.WithTimeout(c.Context(), peerWait)
		_, err := p.api.Submit(ctx, q.Tx)
		cancel()
		switch {
		case err == nil:
			taken = true
		case refused == nil || errors.Is(refused, top.ErrOffline):
			refused = err
		}
	}
	if !taken {
		return refused
	}
	return c.JSON(api.Submitted{Type: "submitted", ID: ledger.ID(q.Tx)})
}

func (l *Light) tx(c *sock.Call) error {
	id, wait, err := txArg(c)
	if err != nil {
		return err
	}
	var r api.Tx
	err = l.ask(c.Context(), func(ctx context.Context, p *peer) (err error) {
		got, err := p.api.Tx(ctx, id, wait)
		if err != nil {
			return err
		}
		r, err = l.checkTx(ctx, p, id, got)
		return err
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// headerWait is how long the header after a block may take: it comes at once
// when the block changed anything.
const headerWait = 10 * time.Second

// checkTx proves that a transaction stands in its block and what became of it.
func (l *Light) checkTx(ctx context.Context, p *peer, id top.ID, got api.Tx) (r api.Tx, err error) {
	proof, err := DecodeTxProof(got.Proof)
	if err != nil {
		return r, err
	}
	if proof.ID != id || ledger.ID(got.Raw) != id {
		return r, fmt.Errorf("the answer is of another transaction: %w", top.ErrFailed)
	}
	at, err := l.headers.verified(ctx, p, proof.Height, 0)
	if err != nil {
		return r, err
	}
	next, err := l.headers.verified(ctx, p, proof.Height+1, headerWait)
	if err != nil {
		return r, err
	}
	if err := proof.Verify(at.Header, next.Header); err != nil {
		return r, err
	}
	t, err := ledger.Decode(got.Raw)
	if err != nil {
		return r, err
	}
	w := row{ID: id, Kind: t.Body.Kind().String(), From: got.From, Outcome: proof.Outcome, Size: uint32(len(got.Raw))}
	if w.Outcome.Code != 0 {
		w.Error, w.Message = kindOfCode(w.Outcome.Code, got.Error), printable(got.Message)
	}
	r = txRecord(w, proof.Height, int(proof.Index), top.TimeOf(at.Time))
	r.Proof, r.Raw = got.Proof, got.Raw
	return r, nil
}

// kindOfCode is the kind that an exit code stands for: the one told, if it fits.
func kindOfCode(code uint32, told string) string {
	if top.Kind(told).Exit() == int(code) {
		for _, k := range top.Kinds() {
			if string(k) == told {
				return told
			}
		}
	}
	for _, k := range top.Kinds() {
		if k.Exit() == int(code) {
			return string(k)
		}
	}
	return string(top.Failed)
}

// printable is a stranger's text without what could steer a terminal.
func printable(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s), maxMessage)
}

// events follows a peer's stream and proves each record of it: every block is a
// verified header, and its transactions are all there.
func (l *Light) events(c *sock.Call) error {
	since, err := count(c, "since")
	if err != nil {
		return err
	}
	if head, ok := l.headers.head(); ok && c.Query("since") == "" {
		since = uint64(head.Height)
	}
	c.Begin()
	return l.ask(c.Context(), func(ctx context.Context, p *peer) error {
		e := eventCheck{l: l, p: p, c: c, since: &since}
		return p.api.Events(ctx, top.Height(since), func(raw json.RawMessage) error { return e.take(ctx, raw) })
	})
}

// eventCheck proves one peer's stream.
type eventCheck struct {
	l     *Light
	p     *peer
	c     *sock.Call
	since *uint64 // the last block passed on whole
	left  int     // transactions of this block still to come
	next  uint32  // index of the next
}

func (e *eventCheck) take(ctx context.Context, raw json.RawMessage) error {
	var t struct{ Type string }
	if err := json.Unmarshal(raw, &t); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	if t.Type != "tx" && e.left > 0 {
		return fmt.Errorf("%d transactions of block %d are missing: %w", e.left, *e.since, top.ErrFailed)
	}
	switch t.Type {
	case "block":
		return e.block(ctx, raw)
	case "tx":
		return e.tx(ctx, raw)
	case "gap":
		return e.gap(raw)
	}
	return nil
}

func (e *eventCheck) gap(raw json.RawMessage) error {
	var g struct{ Lost top.Count }
	if err := json.Unmarshal(raw, &g); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	*e.since += uint64(g.Lost)
	return e.c.Record(map[string]any{"type": "gap", "lost": g.Lost})
}

func (e *eventCheck) block(ctx context.Context, raw json.RawMessage) error {
	var b api.Event
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	if uint64(b.Height) != *e.since+1 {
		return fmt.Errorf("block %s after block %d: %w", b.Height, *e.since, top.ErrFailed)
	}
	lb, err := e.l.headers.verified(ctx, e.p, b.Height, 0)
	if err != nil {
		return err
	}
	h := headerOf(lb)
	empty := types.Txs(nil).Hash()
	if (b.Txs == 0) != (string(lb.DataHash) == string(empty)) {
		return fmt.Errorf("block %s does not hold %d transactions: %w", b.Height, b.Txs, top.ErrFailed)
	}
	*e.since = uint64(b.Height)
	e.left, e.next = b.Txs, 0
	return e.c.Record(api.Event{Type: "block", Height: h.Height, Time: h.Time, Hash: h.Hash, Root: h.Root, Txs: b.Txs})
}

func (e *eventCheck) tx(ctx context.Context, raw json.RawMessage) error {
	var told api.Tx
	if err := json.Unmarshal(raw, &told); err != nil {
		return fmt.Errorf("event: %v: %w", err, top.ErrInvalid)
	}
	got, err := e.p.api.Tx(ctx, told.ID, 0)
	if err != nil {
		return err
	}
	r, err := e.l.checkTx(ctx, e.p, told.ID, got)
	if err != nil {
		return err
	}
	proof, err := DecodeTxProof(got.Proof)
	if err != nil {
		return err
	}
	if uint64(r.Height) != *e.since || r.Index != e.next || int(proof.Total) != int(e.next)+e.left {
		return fmt.Errorf("transaction %s is not number %d of block %d: %w", r.ID.Short(), e.next, *e.since, top.ErrFailed)
	}
	e.left, e.next = e.left-1, e.next+1
	r.Proof, r.Raw = nil, nil
	return e.c.Record(r)
}
