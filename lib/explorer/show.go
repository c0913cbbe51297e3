package explorer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"top/lib/api"
	"top/lib/top"
)

// home is the head of the chain and its newest blocks.
func (s *Server) home(ctx context.Context, _ *http.Request) (v view, err error) {
	st, err := s.cfg.Chain.Status(ctx)
	if err != nil {
		return v, err
	}
	status, err := one("chain", st)
	if err != nil {
		return v, err
	}
	from := top.Height(0)
	if st.Height > blocks {
		from = st.Height - blocks
	}
	seen, _, err := s.events(ctx, from, st.Height)
	if err != nil {
		return v, err
	}
	slices.Reverse(seen)
	list, err := many("newest blocks", seen, "height", "time", "txs", "hash")
	return view{Title: st.Chain.String(), Refresh: 5, Tables: []table{list, status}}, err
}

// events are the blocks after one height up to another, and their transactions.
func (s *Server) events(ctx context.Context, after, to top.Height) (blocks, txs []map[string]any, err error) {
	err = s.cfg.Chain.Events(ctx, after, func(raw json.RawMessage) error {
		var e map[string]any
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		h, _ := e["height"].(string)
		at, err := strconv.ParseUint(h, 10, 64)
		if err != nil || top.Height(at) > to {
			return errEnough
		}
		switch e["type"] {
		case "block":
			blocks = append(blocks, e)
		case "tx":
			txs = append(txs, e)
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil && len(blocks) > 0 {
		err = nil
	}
	return blocks, txs, err
}

func (s *Server) block(ctx context.Context, q *http.Request) (v view, err error) {
	n, err := strconv.ParseUint(q.PathValue("height"), 10, 64)
	if err != nil || n == 0 {
		return v, top.Errorf(top.Invalid, "%q is no height", q.PathValue("height"))
	}
	st, err := s.cfg.Chain.Status(ctx)
	if err != nil {
		return v, err
	}
	if top.Height(n) > st.Height {
		return v, top.Errorf(top.NotFound, "block %d: the newest is %s", n, st.Height)
	}
	seen, txs, err := s.events(ctx, top.Height(n-1), top.Height(n))
	if err != nil {
		return v, err
	}
	if len(seen) == 0 {
		return v, top.Errorf(top.NotFound, "block %d is not kept here", n)
	}
	head, err := one("block", seen[0])
	if err != nil {
		return v, err
	}
	list, err := many("transactions", txs, "id", "kind", "from", "ok", "fee", "message")
	return view{Title: "block " + strconv.FormatUint(n, 10), Tables: []table{head, list}}, err
}

func (s *Server) tx(ctx context.Context, q *http.Request) (v view, err error) {
	id, err := top.ParseID(q.PathValue("id"))
	if err != nil {
		return v, top.Errorf(top.Invalid, "%q names nothing: want a height, an address, a transaction, a channel or a node", q.PathValue("id"))
	}
	t, err := s.cfg.Chain.Tx(ctx, id, 0)
	if errors.Is(err, top.ErrNotFound) { // perhaps it names a channel
		if ch, other := s.cfg.Chain.Channel(ctx, id); other == nil && ch.Exists {
			return s.channelView(ch)
		}
	}
	if err != nil {
		return v, err
	}
	row, err := one("transaction", t)
	return view{Title: "transaction " + id.Short(), Tables: []table{row}}, err
}

func (s *Server) account(ctx context.Context, q *http.Request) (v view, err error) {
	a, err := top.ParseAddress(q.PathValue("address"))
	if err != nil {
		return v, err
	}
	acct, err := s.cfg.Chain.Account(ctx, a)
	if err != nil {
		return v, err
	}
	row, err := one("account, proven at block "+acct.At.Height.String(), acct)
	if err != nil {
		return v, err
	}
	var all []api.Entry
	err = s.cfg.Chain.History(ctx, a, 0, 0, func(e api.Entry) error {
		if all = append(all, e); len(all) > 2*entries {
			all = slices.Clone(all[len(all)-entries:])
		}
		return nil
	})
	if err != nil {
		return v, err
	}
	all = all[max(0, len(all)-entries):]
	slices.Reverse(all)
	history, err := many("history, the newest first", all, "time", "height", "kind", "way", "amount", "fee", "peer", "tx")
	return view{Title: a.String(), Tables: []table{row, history}}, err
}

func (s *Server) channel(ctx context.Context, q *http.Request) (v view, err error) {
	id, err := top.ParseID(q.PathValue("id"))
	if err != nil {
		return v, err
	}
	ch, err := s.cfg.Chain.Channel(ctx, id)
	if err != nil {
		return v, err
	}
	if !ch.Exists {
		return v, top.Errorf(top.NotFound, "channel %s: closed, or never opened", id)
	}
	return s.channelView(ch)
}

func (s *Server) channelView(ch api.Channel) (view, error) {
	row, err := one("channel, proven at block "+ch.At.Height.String(), ch)
	return view{Title: "channel " + ch.Channel.Short(), Tables: []table{row}}, err
}

func (s *Server) nodes(ctx context.Context, _ *http.Request) (v view, err error) {
	var all []api.Node
	err = s.cfg.Chain.Nodes(ctx, "", func(n api.Node) error {
		if all = append(all, n); len(all) >= listed {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return v, err
	}
	list, err := many("nodes that offer services", all, "node", "name", "owner", "offers", "capacity_kbps")
	return view{Title: "nodes", Tables: []table{list}}, err
}

func (s *Server) node(ctx context.Context, q *http.Request) (v view, err error) {
	id, err := top.ParseNodeID(q.PathValue("id"))
	if err != nil {
		return v, err
	}
	n, err := s.cfg.Chain.Node(ctx, id)
	if err != nil {
		return v, err
	}
	if !n.Exists {
		return v, top.Errorf(top.NotFound, "node %s is not registered", id)
	}
	row, err := one("node, proven at block "+n.At.Height.String(), n)
	return view{Title: "node " + n.Name, Tables: []table{row}}, err
}

func (s *Server) validators(ctx context.Context, _ *http.Request) (v view, err error) {
	var all []api.Validator
	err = s.cfg.Chain.Validators(ctx, func(r api.Validator) error {
		if all = append(all, r); len(all) >= listed {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return v, err
	}
	list, err := many("validators", all, "name", "validator", "owner", "power", "staked", "commission", "jailed", "slashed")
	return view{Title: "validators", Tables: []table{list}}, err
}
