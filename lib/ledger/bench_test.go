package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"top/lib/keys"
	"top/lib/top"
)

// million is a state of n accounts. Keys are not real: nothing here verifies.
func million(b *testing.B, n int) *State {
	b.Helper()
	g := Genesis{Params: DefaultParams(top.ChainID{1}), Time: 1}
	g.Accounts = make([]GenesisAccount, n)
	for i := range g.Accounts {
		binary.BigEndian.PutUint32(g.Accounts[i].Address[:], uint32(i))
		g.Accounts[i].Address[31] = 1
		g.Accounts[i].Balance = 1000 * top.One
	}
	s, err := New(g)
	if err != nil {
		b.Fatal(err)
	}
	s.Begin(1, 1000)
	s.Root()
	return s
}

// BenchmarkApply is the ledger's rate on one core: transfers whose signatures
// were verified, between accounts in an order that no cache foresees.
func BenchmarkApply(b *testing.B) {
	const accounts = 1_000_000
	s := million(b, accounts)
	// One after the other in memory, as a block is decoded.
	txs, bodies := make([]Tx, 1<<16), make([]Transfer, 1<<16)
	list := make([]Signed, len(txs))
	at := uint32(1)
	for i := range txs {
		at = at*1664525 + 1013904223
		from := uint32(i) * 40503 % uint32(len(txs)) * 15 // each its own, in no order
		bodies[i] = Transfer{To: To((at >> 7) % accounts), Amount: 1}
		txs[i] = Tx{Chain: s.params.Chain, From: from, Key: s.cold[from].key, Expiry: 1 << 40, Body: &bodies[i]}
		list[i] = Signed{Tx: &txs[i]}
	}
	b.ResetTimer()
	n := 0
	for b.Loop() {
		if n%WarmTxs == 0 {
			s.Warm(list[n%len(txs):][:WarmTxs])
		}
		t := list[n%len(txs)]
		t.Nonce++
		if r := s.Apply(t.Tx, 120); r.Code != 0 {
			b.Fatal(r.Message)
		}
		n++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M-transfers/s")
}

// BenchmarkApplyBatch is the rate of records of a batch.
func BenchmarkApplyBatch(b *testing.B) {
	const accounts, records = 1_000_000, 10_000
	s := million(b, accounts)
	body := &Batch{}
	at := uint32(1)
	for range records {
		at = at*1664525 + 1013904223
		body.Records = append(body.Records, Record{at % accounts, 1})
	}
	t := &Tx{Chain: s.params.Chain, Key: s.cold[0].key, Expiry: 1 << 40, Body: body}
	b.ResetTimer()
	for b.Loop() {
		t.Nonce++
		if r := s.Apply(t, 50_000); r.Code != 0 {
			s.hot[0].balance += 1000 * top.One
		}
	}
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds()/1e6, "M-records/s")
}

// BenchmarkRoot is the state root when every hot record of a million changed.
func BenchmarkRoot(b *testing.B) {
	s := million(b, 1_000_000)
	b.ResetTimer()
	for b.Loop() {
		for i := range uint32(1_000_000 / pageSize) {
			s.hot[i*pageSize].balance++
			s.hotPages.touch(i * pageSize)
		}
		s.Root()
	}
	b.ReportMetric(float64(hotSize), "bytes/record")
	b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms/root")
}

// BenchmarkVerify is signatures one by one, and in batches beside it.
func BenchmarkVerify(b *testing.B) {
	txs := make([]Signed, 2000)
	for i := range txs {
		k := keys.FromSeed([32]byte{byte(i), byte(i >> 8)})
		t := Tx{Chain: top.ChainID{1}, Nonce: uint64(i), Body: &Transfer{To: To(1), Amount: 1}}
		err := t.Sign(k.Signer())
		if err == nil {
			txs[i], err = Read(t.Encode())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	var ring keys.Ring
	b.Run("single", func(b *testing.B) {
		n := 0
		for b.Loop() {
			if err := txs[n%len(txs)].Verify(); err != nil {
				b.Fatal(err)
			}
			n++
		}
	})
	for _, size := range []int{100, 1000, 2000} {
		b.Run(fmt.Sprintf("batch-%d", size), func(b *testing.B) {
			for b.Loop() {
				if VerifyBatch(txs[:size], &ring) != nil {
					b.Fatal("refused")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/signature")
		})
	}
}

// BenchmarkLoad is how long a node takes to have its state from a snapshot of a
// million accounts.
func BenchmarkLoad(b *testing.B) {
	s, err := New(Genesis{Params: DefaultParams(top.ChainID{1})})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1_000_000 {
		s.addAccount(top.Address(sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})))
	}
	raw := s.Encode()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := Load(raw); err != nil {
			b.Fatal(err)
		}
	}
}
