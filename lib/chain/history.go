package chain

import (
	"slices"

	"top/lib/api"
	"top/lib/ledger"
	"top/lib/stake"
	"top/lib/top"
)

// genesisEntries opens the history of every account that exists from the start.
func genesisEntries(g ledger.Genesis) []entry {
	var es []entry
	for i, a := range g.Accounts {
		es = append(es, entry{
			Account: uint32(i), Kind: "genesis", Way: wayIn, Amount: a.Balance + a.Locked,
			Height: 0, TimeMs: g.Time * 1000,
		})
	}
	return es
}

// released is coins that came back as moves.
func released(all []stake.Release) (moves []ledger.Move) {
	for _, r := range all {
		moves = append(moves, ledger.Move{Account: r.Who, Way: ledger.In, Amount: r.Amount, Peer: r.Who})
	}
	return moves
}

// backEntries is what came back to its owners, by no transaction of theirs.
func backEntries(kind string, moves []ledger.Move, at api.Header) []entry {
	var es []entry
	for _, m := range moves {
		es = append(es, entry{
			Account: m.Account, Kind: kind, Way: wayIn, Amount: m.Amount,
			Height: at.Height, TimeMs: uint64(at.Time.UnixMilli()),
		})
	}
	return es
}

// txEntries is what a transaction did to each account's money: one entry for
// each account and direction, and one for who pays the fee whatever became of
// it. A transaction that changed nothing, not even a fee, leaves no entry. Whom a
// batch paid, record by record, is credits: the transaction says how much.
func txEntries(r row, from uint32, moves []ledger.Move, at api.Header) (es []entry, credits []uint32) {
	if r.Error != "" && r.Outcome.Fee == 0 && !r.Outcome.Free {
		return nil, nil
	}
	batch := r.Kind == ledger.KindBatch.String()
	base := entry{
		Tx: r.ID, Kind: r.Kind, Channel: r.Outcome.Channel, Error: r.Error,
		Height: at.Height, TimeMs: uint64(at.Time.UnixMilli()),
	}
	first := base
	first.Account, first.Fee, first.Free = from, r.Outcome.Fee, r.Outcome.Free
	es = make([]entry, 1, 2)
	es[0] = first
	for _, m := range moves {
		if batch && m.Way == ledger.In {
			credits = append(credits, m.Account)
			continue
		}
		i := slices.IndexFunc(es, func(e entry) bool { return e.Account == m.Account && e.Way == wayOf(m.Way) })
		if i < 0 {
			i = 0
			if m.Account != from || es[0].Way != wayNone {
				i = len(es)
				n := base
				n.Account = m.Account
				es = append(es, n)
			}
			es[i].Way = wayOf(m.Way)
		}
		es[i].Amount += m.Amount
		if m.Peer != m.Account && (es[i].Peers == 0 || es[i].Peer != m.Peer) {
			es[i].Peer = m.Peer
			es[i].Peers++
		}
	}
	if batch {
		es[0].Peers = countPeers(from, moves)
	}
	return es, credits
}

// countPeers is how many payments of a batch went to somebody else.
func countPeers(from uint32, moves []ledger.Move) (n uint32) {
	for _, m := range moves {
		if m.Way == ledger.In && m.Account != from {
			n++
		}
	}
	return n
}

func wayOf(w ledger.Way) byte {
	if w == ledger.In {
		return wayIn
	}
	return wayOut
}

// show is an entry as records carry it; address gives the address of an index.
func (n entry) show(seq uint64, address func(uint32) top.Address) api.Entry {
	r := api.Entry{
		Type: "entry", Account: address(n.Account), Seq: top.Count(seq), Tx: n.Tx, Kind: n.Kind,
		Way: wayNames[n.Way], Amount: n.Amount, Fee: n.Fee, Free: n.Free, Peers: int(n.Peers),
		Channel: n.Channel, OK: n.Error == "", Error: n.Error, Height: n.Height, Time: top.UnixMilli(int64(n.TimeMs)),
	}
	if n.Peers == 1 {
		p := address(n.Peer)
		r.Peer, r.Peers = &p, 0
	}
	return r
}
