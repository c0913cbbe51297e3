package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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
		{Method: "GET", Path: "/v1/validators", Handle: l.validators},
		{Method: "GET", Path: "/v1/validators/{id}", Handle: l.validator},
		{Method: "GET", Path: "/v1/accounts/{address}/stakes", Handle: l.stakesOf},
		{Method: "GET", Path: "/v1/proposals", Handle: l.proposals},
		{Method: "POST", Path: "/v1/txs", Access: sock.Write, MaxBody: maxSubmit, Handle: l.submit},
		{Method: "POST", Path: "/v1/txs/stream", Access: sock.Write, MaxBody: sock.Unlimited, Handle: l.stream},
		{Method: "GET", Path: "/v1/txs/{id}", Handle: l.tx},
		{Method: "GET", Path: "/v1/events", Handle: l.events},
		{Method: "GET", Path: "/v1/dials", Handle: l.dials},
	}
}

// dials is the full nodes that it was told to ask.
func (l *Light) dials(c *sock.Call) error {
	all := []api.Dial{}
	if l.host != nil {
		for _, a := range l.host.Reaches(l.cfg.Peers) {
			all = append(all, api.Dial{Type: "dial", Addr: a})
		}
	}
	return sock.Records(c, all)
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
	r.Supply, r.Minted, r.Burned, r.Accounts = p.Supply, p.Minted, p.Burned, p.Accounts
	return c.JSON(r)
}

func (l *Light) getParams(c *sock.Call) error { return answer(c, l, peerWait, l.askParams) }

// answer asks the peers and passes on what verifies.
func answer[T any](c *sock.Call, l *Light, patience time.Duration, f func(context.Context, *peer) (T, error)) error {
	r, err := ask(c.Context(), l, patience, f)
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
	return answer(c, l, wait+peerWait, func(ctx context.Context, p *peer) (r api.LightBlock, err error) {
		lb, err := l.headers.verified(ctx, p, h, wait)
		if err == nil && h == 0 {
			lb = l.headers.newest() // another peer may have shown a newer one
		}
		if err != nil {
			return r, err
		}
		l.headers.tell(top.Height(lb.Height))
		b, err := encodeLightBlock(lb)
		return api.LightBlock{Type: "light-block", Height: top.Height(lb.Height), Block: b}, err
	})
}

func (l *Light) account(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	return answer(c, l, peerWait, func(ctx context.Context, p *peer) (api.Account, error) { return l.askAccount(ctx, p, a) })
}

func (l *Light) askAccount(ctx context.Context, p *peer, a top.Address) (r api.Account, err error) {
	params, err := l.meta(ctx, p)
	if err != nil {
		return r, err
	}
	got, err := p.api.Account(ctx, a)
	if err != nil {
		return r, unproven(err)
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
	return answer(c, l, peerWait, func(ctx context.Context, p *peer) (r api.Channel, err error) {
		got, err := p.api.Channel(ctx, id)
		if err != nil {
			return r, unproven(err)
		}
		return l.checkChannel(ctx, p, id, got)
	})
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

// listWait is how long a list may take: each record of it is proven by an
// answer of its own.
const listWait = time.Minute

// channelsOf proves each channel of an account. That none of those it pays for
// is missing is proven too; of those that pay it, a peer can hide one.
func (l *Light) channelsOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	rs, err := ask(c.Context(), l, listWait, func(ctx context.Context, p *peer) (rs []api.Channel, err error) {
		// The list and the account are two answers: a channel that opens or
		// closes between them makes them differ, so it asks again.
		for range 3 {
			if rs, err = l.askChannels(ctx, p, a); !errors.Is(err, errHidden) {
				break
			}
		}
		return rs, err
	})
	if err != nil {
		return err
	}
	return sock.Records(c, rs)
}

var errHidden = fmt.Errorf("channels are missing from the list: %w", top.ErrFailed)

func (l *Light) askChannels(ctx context.Context, p *peer, a top.Address) (rs []api.Channel, err error) {
	seen, pays := map[top.ID]bool{}, uint32(0)
	err = p.api.Channels(ctx, a, func(got api.Channel) error {
		if seen[got.Channel] || len(seen) >= maxList {
			return fmt.Errorf("channel %s is listed twice, or there are more than %d: %w", got.Channel.Short(), maxList, top.ErrFailed)
		}
		seen[got.Channel] = true
		r, err := l.checkChannel(ctx, p, got.Channel, got)
		if err != nil || !r.Exists {
			return err
		}
		if r.Payer != a && r.Provider != a {
			return fmt.Errorf("channel %s is between others: %w", r.Channel.Short(), top.ErrFailed)
		}
		if r.Payer == a {
			pays++
		}
		rs = append(rs, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	acc, err := l.askAccount(ctx, p, a)
	if err == nil && acc.Channels != pays {
		err = fmt.Errorf("the account pays for %d channels, %d were shown: %w", acc.Channels, pays, errHidden)
	}
	return rs, err
}

func (l *Light) node(c *sock.Call) error {
	id, err := top.ParseNodeID(c.Arg("id"))
	if err != nil {
		return err
	}
	return answer(c, l, peerWait, func(ctx context.Context, p *peer) (r api.Node, err error) {
		got, err := p.api.Node(ctx, id)
		if err != nil {
			return r, unproven(err)
		}
		return l.checkNode(ctx, p, id, got)
	})
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
	service := c.Query("service")
	rs, err := ask(c.Context(), l, listWait, func(ctx context.Context, p *peer) (rs []api.Node, err error) {
		seen := map[top.NodeID]bool{}
		err = p.api.Nodes(ctx, service, func(got api.Node) error {
			if seen[got.Node] || len(seen) >= maxList {
				return fmt.Errorf("node %s is listed twice, or there are more than %d: %w", got.Node, maxList, top.ErrFailed)
			}
			seen[got.Node] = true
			r, err := l.checkNode(ctx, p, got.Node, got)
			if err != nil || !r.Exists {
				return err
			}
			if service != "" && !slices.ContainsFunc(r.Offers, func(o api.Offer) bool { return o.Service == service }) {
				return fmt.Errorf("node %s does not sell %q: %w", got.Node, service, top.ErrFailed)
			}
			rs = append(rs, r)
			return nil
		})
		return rs, err
	})
	if err != nil {
		return err
	}
	return sock.Records(c, rs)
}

// history passes on what a full node tells. Which transactions there are can be
// proven one by one (GET /v1/txs/{id}); that none is missing cannot.
func (l *Light) history(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	since, err := c.Count("since")
	if err != nil {
		return err
	}
	limit, err := c.Count("limit")
	if err != nil {
		return err
	}
	sent := uint64(0)
	err = l.eachPeer(c.Context(), func(ctx context.Context, p *peer) error {
		if limit > 0 && sent >= limit {
			return nil
		}
		ctx, touch, stop := patient(ctx, l.cfg.patience, func() bool { return false })
		defer stop()
		left := 0 // all
		if limit > 0 {
			left = int(min(limit-sent, 1<<30))
		}
		err := p.api.History(ctx, a, top.Count(since), left, func(e api.Entry) error {
			touch()
			if e.Type != "entry" || e.Account != a || uint64(e.Seq) <= since || limit > 0 && sent >= limit {
				return fmt.Errorf("entry %s does not belong into this history: %w", e.Seq, top.ErrFailed)
			}
			since, sent = uint64(e.Seq), sent+1
			e.Kind, e.Error = printable(e.Kind), printable(e.Error)
			return c.Record(e)
		})
		return cmp.Or(silent(ctx), err)
	})
	if err == nil {
		c.Begin()
	}
	return err
}

func (l *Light) tx(c *sock.Call) error {
	id, wait, at, err := txArg(c)
	if err != nil {
		return err
	}
	return answer(c, l, wait+peerWait+headerWait, func(ctx context.Context, p *peer) (r api.Tx, err error) {
		if at != (place{}) {
			return l.finalAt(ctx, p, id, at)
		}
		return l.finalOf(ctx, p, id, wait)
	})
}

// finalAt asks a peer for a transaction at a place, and proves that it stands there.
func (l *Light) finalAt(ctx context.Context, p *peer, id top.ID, at place) (r api.Tx, err error) {
	got, err := p.api.TxAt(ctx, id, at.height, at.at)
	if err != nil {
		return r, err
	}
	if r, err = l.checkTx(ctx, p, id, got); err == nil && (place{r.Height, r.Index}) != at {
		err = fmt.Errorf("transaction %s is not number %d of block %s: %w", id.Short(), at.at, at.height, top.ErrFailed)
	}
	return r, err
}

// finalOf asks a peer for a transaction that is final, and proves it.
func (l *Light) finalOf(ctx context.Context, p *peer, id top.ID, wait time.Duration) (r api.Tx, err error) {
	got, err := p.api.Tx(ctx, id, wait)
	if err != nil {
		return r, err
	}
	return l.checkTx(ctx, p, id, got)
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
	if proof.ID != id || len(got.Raw) > 0 && ledger.ID(got.Raw) != id {
		return r, fmt.Errorf("the answer is of another transaction: %w", top.ErrFailed)
	}
	at, err := l.headers.verified(ctx, p, max(proof.Height, 1), 0)
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
	if len(got.Raw) == 0 {
		// The peer let its bytes go: what became of it is proven, whose it was is told.
		w := row{ID: id, Kind: printable(got.Kind), From: got.From, Outcome: proof.Outcome, Size: uint32(got.Size)}
		if w.Outcome.Code != 0 {
			w.Error, w.Message = kindOfCode(w.Outcome.Code, got.Error), printable(got.Message)
		}
		l.headers.tell(proof.Height + 1)
		r = txRecord(w, proof.Height, int(proof.Index), top.TimeOf(at.Time))
		r.Proof = got.Proof
		return r, nil
	}
	t, err := ledger.Decode(got.Raw)
	if err != nil {
		return r, err
	}
	w := row{ID: id, Kind: t.Body.Kind().String(), Outcome: proof.Outcome, Size: uint32(len(got.Raw))}
	got.Code = w.Outcome.Code
	if w.From, err = l.payer(ctx, p, t, got); err != nil {
		return r, err
	}
	if w.Outcome.Code != 0 {
		w.Error, w.Message = kindOfCode(w.Outcome.Code, got.Error), printable(got.Message)
	}
	l.headers.tell(proof.Height + 1)
	r = txRecord(w, proof.Height, int(proof.Index), top.TimeOf(at.Time))
	r.Proof, r.Raw = got.Proof, got.Raw
	return r, nil
}

// payer proves whose account a transaction names by its index. Where the signer
// must be the account itself, the signature proved it when it was applied; a
// claim or a close may be signed by a node's key, and what failed by any.
func (l *Light) payer(ctx context.Context, p *peer, t *ledger.Tx, got api.Tx) (top.Address, error) {
	if got.Code == 0 {
		switch t.Body.Kind() {
		case ledger.KindClaim, ledger.KindClose:
		default:
			return t.Key, nil
		}
	} else if got.From.IsZero() {
		return got.From, nil // no account had that index
	}
	_, err := l.owner(ctx, p, got.From, t.From)
	return got.From, err
}
