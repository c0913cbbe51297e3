package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"top/lib/chain"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/tool"
	"top/lib/top"
)

func initVerb() tool.Verb {
	return tool.Verb{
		Name: "init", Summary: "make a new chain here, or join somebody else's",
		Doc: `Without --genesis it draws a new chain whose one validator is this node. With
--genesis it joins: as a full node, or with --light as a light client, which
starts from the genesis or from a header that you trust (--trust HEIGHT:HASH, at
most nine days old). Repeating it with the same genesis changes where to listen
and whom to dial, and keeps keys and data.`,
		Flags: append(stakeFlags(), []tool.Flag{
			{Name: "genesis", Help: "join the chain of this genesis file"},
			{Name: "peer", Kind: tool.Strings, Help: "whom to dial: ID@HOST:PORT, for a light client /ip4/…/tcp/…/p2p/…; may repeat"},
			{Name: "light", Kind: tool.Bool, Help: "verify headers and proofs, keep no state"},
			{Name: "trust", Help: "start a light client from this header: HEIGHT:HASH"},
			{Name: "listen", Help: "HOST:PORT for validators and full nodes (default: a free port, drawn once)"},
			{Name: "mesh", Help: "where light clients are answered (default /ip4/0.0.0.0/tcp/0)"},
			{Name: "fund", Kind: tool.Strings, Help: "new chain: ADDRESS=AMOUNT of TOP that exist from the start; may repeat"},
			{Name: "tx-kind", Kind: tool.Strings, Help: "new chain: accept this transaction kind only; may repeat"},
			{Name: "deadline", Kind: tool.Duration, Default: "10m", Help: "new chain: how long claims count after a close"},
			{Name: "deadline-blocks", Kind: tool.Int, Default: "100", Help: "new chain: and at least so many blocks"},
		}...),
		Records: []string{"init"},
		Examples: []string{
			"top-chain init --fund alice=1000",
			"top-chain init --fund alice=1000 --stake alice=100000 --rule epoch_blocks=200",
			"top-chain init --genesis genesis.json --peer 9f86d081…@192.0.2.7:26656",
			"top-chain init --light --genesis genesis.json --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…",
		},
		Run: runInit,
	}
}

// An initRecord says what a home now holds.
type initRecord struct {
	Type    string      `json:"type"` // "init"
	Chain   top.ChainID `json:"chain"`
	Home    string      `json:"home"`
	Genesis top.ID      `json:"genesis"` // SHA-256 of the genesis file
	Node    string      `json:"node"`    // the ID of ID@HOST:PORT
	Role    string      `json:"role"`
}

func runInit(_ context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	if err := dir.Make(); err != nil {
		return err
	}
	join := chain.Join{
		Listen: c.String("listen"), Mesh: c.String("mesh"), Peers: c.Strings("peer"),
		Trust: c.String("trust"), Light: c.Bool("light"),
	}
	raw, role, err := genesisFor(c, dir)
	if err != nil {
		return err
	}
	if err := checkJoin(join, role); err != nil {
		return err
	}
	if err := drawPorts(dir, &join); err != nil {
		return err
	}
	if err := chain.Setup(dir, raw, join, rand.Reader); err != nil {
		return err
	}
	if c.Set("trust") {
		if err := chain.Forget(dir); err != nil {
			return err
		}
	}
	g, err := chain.ParseGenesis(raw)
	if err != nil {
		return err
	}
	id, err := chain.PeerID(dir, rand.Reader)
	if err != nil {
		return err
	}
	if role == "validator" && len(c.Strings("fund")) == 0 {
		c.Info("nobody owns anything on this chain, and nothing makes money later (begin with some: another --home, --fund ADDRESS=AMOUNT)")
	}
	r := initRecord{"init", g.Chain, string(dir), g.Hash, id, role}
	return c.Emit(r, "%s holds chain %s as %s %s\nnow run: top-chain serve --home %[1]s", dir, g.Chain, role, id)
}

// genesisFor is the genesis to start from: the one given, or a new one.
func genesisFor(c *tool.Call, dir home.Dir) (raw []byte, role string, err error) {
	if c.Set("genesis") {
		f, err := c.Input(c.String("genesis"))
		if err != nil {
			return nil, "", err
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, maxGenesis))
		role = "full"
		if c.Bool("light") {
			role = "light"
		}
		return raw, role, err
	}
	if c.Bool("light") || c.Set("trust") {
		return nil, "", top.Errorf(top.Usage, "a light client joins a chain: name its genesis file with --genesis")
	}
	if _, err := chain.LoadGenesis(dir); err == nil {
		return nil, "", top.Errorf(top.Busy, "%s holds a chain already (top-chain serve runs it; another --home makes another)", dir)
	} else if !errors.Is(err, top.ErrNotFound) {
		return nil, "", err
	}
	raw, err = newGenesis(beginningOf(c), []home.Dir{dir}, func(p *ledger.Params) {
		p.DeadlineSec, p.DeadlineBlocks = uint64(c.Duration("deadline").Seconds()), uint64(max(c.Int("deadline-blocks"), 0))
		if kinds := c.Strings("tx-kind"); len(kinds) > 0 {
			p.Kinds = kinds
		}
	})
	return raw, "validator", err
}

// maxGenesis bounds a genesis file: a million accounts.
const maxGenesis = 256 << 20

func checkJoin(j chain.Join, role string) error {
	if j.Light && len(j.Peers) == 0 {
		return top.Errorf(top.Usage, "a light client asks full nodes: name one with --peer (top-chain status on it shows its address)")
	}
	for _, p := range j.Peers {
		if light := strings.HasPrefix(p, "/"); light != (role == "light") {
			return top.Errorf(top.Usage, "--peer %s: a light client dials /ip4/…/p2p/…, every other node ID@HOST:PORT (top-chain status on the peer shows both)", p)
		}
	}
	return nil
}

// drawPorts fills in where to listen: what the home said before, else free ports
// drawn once, so that others find the node where it was.
func drawPorts(dir home.Dir, j *chain.Join) error {
	if j.Light {
		return nil
	}
	if old, err := chain.LoadJoin(dir); err == nil {
		j.Listen, j.Mesh = cmp.Or(j.Listen, old.Listen), cmp.Or(j.Mesh, old.Mesh)
	}
	if j.Listen != "" && j.Mesh != "" {
		return nil
	}
	port, err := chain.DrawPorts(2)
	if err != nil {
		return err
	}
	j.Listen = cmp.Or(j.Listen, fmt.Sprintf("0.0.0.0:%d", port))
	j.Mesh = cmp.Or(j.Mesh, fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", port+1))
	return nil
}

// A beginning is what --fund, --stake and --rule say of a new chain.
type beginning struct{ funds, stakes, rules []string }

func beginningOf(c *tool.Call) beginning {
	return beginning{c.Strings("fund"), c.Strings("stake"), c.Strings("rule")}
}

// newGenesis is the genesis of a chain whose validators are these homes; contacts are
// those of the first home.
func newGenesis(b beginning, validators []home.Dir, set func(*ledger.Params)) ([]byte, error) {
	id, err := chain.DrawChainID(rand.Reader)
	if err != nil {
		return nil, err
	}
	funds, err := parseFunds(validators[0], b.funds)
	if err != nil {
		return nil, err
	}
	g := ledger.Genesis{Params: ledger.DefaultParams(id), Time: uint64(time.Now().Unix()), Accounts: funds}
	set(&g.Params)
	if err := setRules(&g.Params, b.rules); err != nil {
		return nil, err
	}
	if len(b.stakes) > 0 {
		if err := genesisStakes(b.stakes, &g, validators); err != nil {
			return nil, err
		}
		return chain.NewGenesis(g, nil)
	}
	var keys [][32]byte
	for _, dir := range validators {
		k, err := chain.ConsensusKey(dir, rand.Reader)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return chain.NewGenesis(g, keys)
}

// parseFunds reads ADDRESS=AMOUNT of --fund.
func parseFunds(dir home.Dir, list []string) (funds []ledger.GenesisAccount, err error) {
	for _, s := range list {
		who, much, ok := strings.Cut(s, "=")
		if !ok {
			return nil, top.Errorf(top.Usage, "--fund %q: want ADDRESS=AMOUNT", s)
		}
		var f ledger.GenesisAccount
		if f.Address, err = home.Resolve(dir, who); err != nil {
			return nil, err
		}
		if f.Balance, err = top.ParseAmount(much); err != nil {
			return nil, err
		}
		funds = append(funds, f)
	}
	return funds, nil
}
