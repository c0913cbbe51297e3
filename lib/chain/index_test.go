package chain

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"

	dbm "github.com/cometbft/cometbft-db"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/top"
)

// What the index says after many blocks, over several runs and after it was opened
// again, is what was put into it.
func TestTheIndexFindsWhatWasPut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	db := dbm.NewMemDB()
	x, err := openIndex(db)
	if err != nil {
		t.Fatal(err)
	}
	raws := map[place][]byte{}
	raw := func(h top.Height, at uint32) ([]byte, error) { return raws[place{h, at}], nil }
	x.raw = raw
	address := func(a uint32) top.Address { return top.Address{byte(a), byte(a >> 8), 9} }
	const accounts, blocks = 700, 900
	want := map[uint32][]entry{}
	where := map[top.ID]place{}
	var ids []top.ID
	n := uint64(0)
	for h := top.Height(1); h <= blocks; h++ {
		b := blockRows{timeMs: uint64(h) * 1000}
		if h%7 == 0 {
			continue // blocks without anything are not put
		}
		if h%5 == 0 {
			e := entry{Account: uint32(rnd.IntN(accounts)), Kind: "unlocked", Way: wayIn, Amount: 3, Height: h, TimeMs: b.timeMs}
			b.entries = append(b.entries, e)
			want[e.Account] = append(want[e.Account], e)
		}
		for at := range uint32(rnd.IntN(400)) {
			n++
			var id top.ID
			binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15)
			r := row{ID: id, Kind: "transfer", From: address(uint32(n) % accounts), Size: 120, Outcome: Outcome{Fee: 5}}
			if n%11 == 0 {
				r.Kind = "batch"
				body := &ledger.Batch{New: []top.Address{address(uint32(n+1) % accounts)}}
				out := entry{Account: uint32(n) % accounts, Tx: id, Kind: r.Kind, Way: wayOut, Amount: 60, Fee: 5, Peers: 20, Height: h, TimeMs: b.timeMs}
				r.entries = []entry{out}
				want[out.Account] = append(want[out.Account], out)
				for i := range uint32(20) {
					to := (uint32(n) + 1 + i/2*(i%2)) % accounts // some are paid twice, one by its address
					rec := ledger.Record{Index: to + 1, Amount: top.Amount(i) + 1}
					if i == 0 {
						rec.Index = 0
					}
					body.Records = append(body.Records, rec)
					r.credits = append(r.credits, to)
					want[to] = append(want[to], entry{
						Account: to, Tx: id, Kind: r.Kind, Way: wayIn, Amount: rec.Amount, Peer: out.Account, Peers: 1, Height: h, TimeMs: b.timeMs,
					})
				}
				tx := ledger.Tx{From: out.Account, Body: body}
				if err := tx.Sign(keys.FromSeed([32]byte{1}).Signer()); err != nil {
					t.Fatal(err)
				}
				raws[place{h, at}] = tx.Encode()
			} else {
				for i := range uint32(2) {
					e := entry{Account: uint32(n+uint64(i)) % accounts, Tx: id, Kind: r.Kind, Way: wayOut, Amount: 1, Peer: 4, Peers: 1, Height: h, TimeMs: b.timeMs}
					r.entries = append(r.entries, e)
					want[e.Account] = append(want[e.Account], e)
				}
			}
			b.rows = append(b.rows, r)
			where[id] = place{h, at}
			ids = append(ids, id)
		}
		if len(ids) > 0 && h%50 == 1 { // one that came twice, and changed nothing the second time
			again := ids[rnd.IntN(len(ids))]
			b.rows = append(b.rows, row{ID: again, Kind: "transfer", Outcome: Outcome{Code: 4}, Error: "denied"})
		}
		if err := x.add(h, b, false); err != nil {
			t.Fatal(err)
		}
		if h%300 == 2 {
			if x, err = openIndex(db); err != nil {
				t.Fatal(err)
			}
			x.raw = raw
		}
	}
	if x.runs < 2 {
		t.Fatalf("%d runs: the test is too small", x.runs)
	}
	for _, id := range ids {
		if rnd.IntN(300) > 0 {
			continue
		}
		p := where[id]
		h, at, ok, err := x.find(id)
		if err != nil || !ok || h != p.height || at != int(p.at) {
			t.Fatalf("%s stands at %v, found at %d %d %v %v", id.Short(), p, h, at, ok, err)
		}
	}
	if _, _, ok, err := x.find(top.ID{1, 2, 3}); ok || err != nil {
		t.Errorf("found what was not put: %v", err)
	}
	for a := uint32(0); a < accounts; a += 37 {
		since := uint64(rnd.IntN(3)) * uint64(len(want[a])/3)
		var got []entry
		err := x.history(a, address(a), since, func(seq uint64, e entry) (bool, error) {
			if since++; seq != since {
				t.Fatalf("account %d: number %d after %d", a, seq, since-1)
			}
			got = append(got, e)
			return true, nil
		})
		if rest := want[a][len(want[a])-len(got):]; err != nil || int(since) != len(want[a]) || len(got) > 0 && !reflect.DeepEqual(got, rest) {
			t.Fatalf("account %d: %d entries of %d, %v\n%+v\n%+v", a, len(got), len(want[a]), err, got, rest)
		}
	}
}
