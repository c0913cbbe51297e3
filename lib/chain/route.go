package chain

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/top"
)

// staleAfter is the age of the last block beyond which a node says so.
const staleAfter = 60 * time.Second

// Protocol is how light clients ask a full node: the Public routes of chain.sock
// over HTTP/1.1 on a libp2p stream.
const Protocol = "/top/chain/1"

// routes is the table of chain.sock (docs/contract.md, "Sockets"). The Public
// ones are also answered to light clients, who believe none of it.
func (n *Node) routes() []sock.Route {
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Public: true, Handle: n.status},
		{Method: "GET", Path: "/v1/params", Public: true, Handle: n.params},
		{Method: "GET", Path: "/v1/genesis", Public: true, Handle: n.getGenesis},
		{Method: "GET", Path: "/v1/headers/{height}", Public: true, Handle: n.header},
		{Method: "GET", Path: "/v1/accounts/{address}", Public: true, Handle: n.account},
		{Method: "GET", Path: "/v1/accounts/{address}/history", Public: true, Handle: n.history},
		{Method: "GET", Path: "/v1/accounts/{address}/channels", Public: true, Handle: n.channelsOf},
		{Method: "GET", Path: "/v1/channels/{id}", Public: true, Handle: n.channel},
		{Method: "GET", Path: "/v1/nodes", Public: true, Handle: n.nodes},
		{Method: "GET", Path: "/v1/nodes/{id}", Public: true, Handle: n.node},
		{Method: "GET", Path: "/v1/validators", Public: true, Handle: n.validators},
		{Method: "GET", Path: "/v1/validators/{id}", Public: true, Handle: n.validator},
		{Method: "GET", Path: "/v1/accounts/{address}/stakes", Public: true, Handle: n.stakesOf},
		{Method: "GET", Path: "/v1/proposals", Public: true, Handle: n.proposals},
		{Method: "POST", Path: "/v1/txs", Access: sock.Write, Public: true, MaxBody: maxSubmit, Handle: n.submit},
		{Method: "POST", Path: "/v1/txs/stream", Access: sock.Write, Public: true, MaxBody: sock.Unlimited, Handle: n.stream},
		{Method: "GET", Path: "/v1/txs/{id}", Public: true, Handle: n.tx},
		{Method: "GET", Path: "/v1/events", Public: true, Handle: n.events},
		{Method: "GET", Path: "/v1/dials", Handle: n.dials},
	}
}

// dials is the nodes that it was told to reach: by an address, or by a name where they are
// connected, and have proved who they are.
func (n *Node) dials(c *sock.Call) error {
	all := []api.Dial{}
	for _, p := range n.cfg.Peers {
		id, at, _ := strings.Cut(p, "@")
		if _, err := netip.ParseAddrPort(at); err != nil {
			peer := n.comet.Switch().Peers().Get(p2p.ID(id))
			if peer == nil || !peer.IsOutbound() {
				continue
			}
			at = peer.SocketAddr().DialString()
		}
		all = append(all, api.Dial{Type: "dial", Addr: at})
	}
	return sock.Records(c, all)
}

func (n *Node) status(c *sock.Call) error {
	a := n.app
	a.mu.Lock()
	head, s := a.head, a.state
	r := api.ChainStatus{Type: "chain-status", Chain: n.genesis.Chain, Role: "full", Genesis: n.genesis.Hash, Version: top.Version}
	if s != nil {
		p := s.Params()
		r.FeePerByte, r.AccountFee, r.TxKinds = p.FeePerByte, p.AccountFee, p.Kinds
		r.Supply, r.Minted, r.Burned, r.Accounts = s.Supply(), s.Minted(), s.Burned(), top.Count(s.Accounts())
	}
	a.mu.Unlock()
	r.Height, r.Time, r.Header, r.Root = head.Height, head.Time, head.Hash, head.Root
	r.CatchingUp = n.comet.ConsensusReactor().WaitSync()
	r.Stale = time.Since(head.Time.Time) > staleAfter
	r.Peers = n.comet.Switch().Peers().Size()
	r.Pending = n.app.pool.Waiting()
	if n.host != nil {
		r.Addresses = n.host.Addrs()
	}
	r.Consensus = string(peerID(n.seed)) + "@" + n.dialled()
	r.Earliest = top.Height(n.comet.BlockStore().Base())
	r.UptimeMs = top.Count(time.Since(n.start).Milliseconds())
	if vals, err := n.states.LoadValidators(int64(head.Height) + 1); err == nil {
		r.Validators = vals.Size()
		if vals.HasAddress(roleKey(n.seed, roleConsensus).PubKey().Address()) {
			r.Role = "validator"
		}
	}
	return c.JSON(r)
}

// dialled is the host:port under which others reach this node.
func (n *Node) dialled() string {
	if n.cfg.External != "" {
		return n.cfg.External
	}
	return n.cfg.Listen
}

func (n *Node) params(c *sock.Call) error {
	var r api.Params
	var bad error
	err := n.app.read(c.Context(), func(s *ledger.State, at api.Header) {
		p := s.ProveMeta()
		m, err := p.Verify(at.Root)
		r, bad = paramsRecord(m, at, p.Encode()), err
	})
	if err := cmp.Or(err, bad); err != nil {
		return err
	}
	return c.JSON(r)
}

func (n *Node) getGenesis(c *sock.Call) error { return c.Bytes("application/json", n.raw) }

// header answers with a light block: a header, the commit that makes it final
// and the validators that signed, as CometBFT encodes them.
func (n *Node) header(c *sock.Call) error {
	h, wait, err := heightArg(c)
	if err != nil {
		return err
	}
	if h == 0 {
		h = n.app.lastHead().Height
	}
	if wait > 0 && h > 0 {
		ctx, cancel := context.WithTimeout(c.Context(), wait)
		defer cancel()
		// Whoever waited in vain is told that the block is not there.
		if _, err := n.app.wait(ctx, h-1); err != nil && c.Context().Err() != nil {
			return err
		}
	}
	lb, err := n.lightBlock(h)
	if err != nil {
		return err
	}
	b, err := encodeLightBlock(lb)
	if err != nil {
		return err
	}
	return c.JSON(api.LightBlock{Type: "light-block", Height: h, Block: b})
}

// heightArg is the height that a call names, 0 for "latest", and how long it
// would wait for it.
func heightArg(c *sock.Call) (h top.Height, wait time.Duration, err error) {
	if v := c.Arg("height"); v != "latest" {
		if err := h.UnmarshalText([]byte(v)); err != nil || h == 0 {
			return 0, 0, top.Errorf(top.Invalid, "height %q: want a number or \"latest\"", v)
		}
	}
	wait, err = waitArg(c)
	return h, wait, err
}

// lightBlock is the light block at a height that is final.
func (n *Node) lightBlock(h top.Height) (*types.LightBlock, error) {
	bs := n.comet.BlockStore()
	if last := n.app.lastHead().Height; h == 0 || h > last {
		return nil, top.Errorf(top.NotFound, "no block %d, the last is %d", h, last)
	}
	if int64(h) < bs.Base() {
		return n.archive.lightBlock(h)
	}
	meta := bs.LoadBlockMeta(int64(h))
	// The commit in the next block is the one that every node has; the newest
	// block has only the one seen here.
	commit := bs.LoadBlockCommit(int64(h))
	if commit == nil {
		commit = bs.LoadSeenCommit(int64(h))
	}
	vals, err := n.states.LoadValidators(int64(h))
	if err != nil {
		return nil, fmt.Errorf("validators of block %d: %w", h, err)
	}
	if meta == nil || commit == nil {
		return nil, top.Errorf(top.NotFound, "block %d is not complete here", h)
	}
	return &types.LightBlock{SignedHeader: &types.SignedHeader{Header: &meta.Header, Commit: commit}, ValidatorSet: vals}, nil
}

func (n *Node) account(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	var r api.Account
	err = n.app.read(c.Context(), func(s *ledger.State, at api.Header) {
		var acc ledger.Account
		i, ok := s.Index(a)
		if ok {
			acc = s.Account(i)
		}
		r = accountRecord(s.Params(), a, acc, i, ok, at, s.ProveAccount(a).Encode())
	})
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (n *Node) channel(c *sock.Call) error {
	id, err := top.ParseID(c.Arg("id"))
	if err != nil {
		return err
	}
	var r api.Channel
	err = n.app.read(c.Context(), func(s *ledger.State, at api.Header) { r = channelAt(s, id, at) })
	if err != nil {
		return err
	}
	return c.JSON(r)
}

// channelAt is a channel with its proof and the addresses of its parties.
func channelAt(s *ledger.State, id top.ID, at api.Header) api.Channel {
	ch, ok := s.Channel(id)
	r := channelRecord(id, ch, ok, at, s.ProveChannel(id).Encode())
	if ok {
		r.Payer = s.Account(ch.Payer).Key
		provider := s.Account(ch.Provider)
		r.Provider = provider.Key
		if !provider.Node.IsZero() {
			r.Node = &provider.Node
		}
	}
	return r
}

func (n *Node) channelsOf(c *sock.Call) error {
	a, err := top.ParseAddress(c.Arg("address"))
	if err != nil {
		return err
	}
	var rs []api.Channel
	err = n.app.read(c.Context(), func(s *ledger.State, at api.Header) {
		if i, ok := s.Index(a); ok {
			for _, id := range s.ChannelsOf(i) {
				rs = append(rs, channelAt(s, id, at))
			}
		}
	})
	if err != nil {
		return err
	}
	return sock.Records(c, rs)
}

func (n *Node) node(c *sock.Call) error {
	id, err := top.ParseNodeID(c.Arg("id"))
	if err != nil {
		return err
	}
	var r api.Node
	err = n.app.read(c.Context(), func(s *ledger.State, at api.Header) { r = nodeAt(s, id, at) })
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func nodeAt(s *ledger.State, id top.NodeID, at api.Header) api.Node {
	row, ok := s.Node(id)
	r := nodeRecord(id, row, ok, at, s.ProveNode(id).Encode())
	if ok {
		r.Owner = s.Account(row.Owner).Key
	}
	return r
}

func (n *Node) nodes(c *sock.Call) error {
	var rs []api.Node
	err := n.app.read(c.Context(), func(s *ledger.State, at api.Header) {
		for _, id := range s.Nodes(c.Query("service")) {
			rs = append(rs, nodeAt(s, id, at))
		}
	})
	if err != nil {
		return err
	}
	return sock.Records(c, rs)
}

func (n *Node) history(c *sock.Call) error {
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
	i, ok := n.app.indexOf(a)
	if !ok {
		return sock.Records[api.Entry](c, nil)
	}
	address := n.app.addresses()
	c.Begin()
	sent := uint64(0)
	return n.index.history(i, a, since, func(seq uint64, e entry) (bool, error) {
		if err := c.Context().Err(); err != nil {
			return false, err
		}
		sent++
		return limit == 0 || sent < limit, c.Record(e.show(seq, address))
	})
}
