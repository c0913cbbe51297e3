package wire_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/ledger"
	"top/lib/receipt"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// page is where the vectors stand.
const page = "../../docs/wire.md"

// vectors are the values that docs/wire.md shows, made by the code.
func vectors(t *testing.T) map[string]string {
	v := map[string]string{}
	put := func(name string, b []byte) { v[name] = hex.EncodeToString(b) }
	for name, n := range map[string]uint64{"uint-0": 0, "uint-127": 127, "uint-128": 128, "uint-300": 300, "uint-max": 1<<64 - 1} {
		var e wire.Encoder
		e.Uint(n)
		put(name, e.Out())
	}
	chain := top.ChainID{1, 2, 3, 4, 5, 6, 7, 8}
	put("preimage", wire.Preimage("top/example/1", chain, []byte("body")))
	d := wire.Digest("top/example/1", []byte("a"), []byte("b"))
	put("digest", d[:])
	v["chain-id"] = chain.String()
	payer, node := keys.FromSeed([32]byte{1}), keys.FromSeed([32]byte{2})
	v["address"] = top.Address(payer.Public()).String()
	v["node-id"] = top.NodeID(node.Public()).String()
	words := strings.Repeat("abandon ", 11) + "about"
	seed, err := keys.SeedFromWords(words, "")
	must(t, err)
	for name, path := range map[string]string{"words-account": keys.AccountPath, "words-node": keys.NodePath} {
		k, err := keys.Derive(seed[:], path)
		must(t, err)
		pub := k.Public()
		put(name, pub[:])
	}
	put("channel-id", idBytes(ledger.ChannelID(chain, payer.Public(), 7)))
	sessions(t, put, chain, payer, node)
	transactions(t, put, chain, payer)
	return v
}

func idBytes(id top.ID) []byte { return id[:] }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sessions(t *testing.T, put func(string, []byte), chain top.ChainID, payer, node keys.Private) {
	offer := session.Offer{Service: "relay", Unit: "message", Price: 10_000, Window: 64, Hold: []session.Hold{{Seconds: 3600, Factor: 1}}}
	var e wire.Encoder
	offer.Put(&e)
	put("offer", e.Out())
	hashes := session.NewHashChain([32]byte{9}, 10)
	ticket := session.Ticket{
		Chain: chain, Channel: top.ID{0xcc}, Session: top.SessionID{0x55}, Payer: payer.Public(), Node: node.Public(),
		Service: "relay", Unit: "message", Price: 10_000, Root: hashes.Root(), N: 10, Expiry: 1_800_000_000,
	}
	must(t, ticket.SignPayer(payer.Signer()))
	must(t, ticket.SignNode(node.Signer()))
	put("ticket", ticket.Encode())
	voucher := session.Voucher{Chain: chain, Channel: top.ID{0xcc}, Seq: 3, Amount: 50_000, Anchors: []session.Anchor{ticket.Anchor()}}
	must(t, voucher.Sign(payer.Signer()))
	put("voucher", voucher.Encode())
	put("renewal", session.Renewal{Voucher: voucher, Base: []uint64{5}}.Encode())
	tick := session.Tick{Session: ticket.Session, I: 4, W: hashes.At(4)}
	put("tick", tick.Encode())
	claim := session.Claim{Voucher: voucher, Ticks: []session.Tick{tick}}
	put("claim", claim.Encode())
	var log receipt.Log
	must(t, log.Append(50_000, top.ID{1}))
	must(t, log.Append(40_000, top.ID{2}))
	r := receipt.Receipt{Ticket: ticket, Claim: claim}
	r.LogRoot, r.LogSum, r.LogCount = log.Root()
	must(t, r.Sign(node.Signer()))
	put("receipt", r.Encode())
	put("log-root", idBytes(r.LogRoot))
	must(t, r.Verify())
}

func transactions(t *testing.T, put func(string, []byte), chain top.ChainID, payer keys.Private) {
	other := keys.FromSeed([32]byte{3}).Public()
	for name, body := range map[string]ledger.Body{
		"tx-transfer": &ledger.Transfer{To: ledger.To(300), Amount: 1_250_000_000, Memo: "rent"},
		"tx-new":      &ledger.Transfer{To: ledger.ToAddress(other), Amount: 5},
		"tx-batch":    &ledger.Batch{New: []top.Address{other}, Records: []ledger.Record{{Index: 0, Amount: 7}, {Index: 301, Amount: 1 << 30}}},
		"tx-lock":     &ledger.Lock{Amount: 1},
		"tx-open":     &ledger.Open{Provider: 2, Cap: 5, Expiry: 1_800_000_000},
		"tx-close":    &ledger.Close{Channel: top.ID{0xcc}},
		"tx-reclaim":  &ledger.Reclaim{Channel: top.ID{0xcc}},
	} {
		tx := ledger.Tx{Chain: chain, From: 1, Nonce: 7, Expiry: 1_700_000_000, Body: body}
		must(t, tx.Sign(payer.Signer()))
		must(t, tx.Verify())
		put(name, tx.Encode())
		if name == "tx-transfer" {
			put("tx-transfer-id", idBytes(ledger.ID(tx.Encode())))
		}
	}
	s, err := ledger.New(ledger.Genesis{Params: ledger.DefaultParams(chain), Time: 1_700_000_000, Accounts: []ledger.GenesisAccount{
		{Address: payer.Public(), Balance: 1000 * top.One}, {Address: other, Balance: 5, Locked: 7},
	}})
	must(t, err)
	put("state-root", idBytes(s.Root()))
	for name, proof := range map[string][]byte{
		"account-proof-sha256": s.ProveAccount(payer.Public()).Encode(), "absence-proof-sha256": s.ProveAccount(top.Address{9}).Encode(),
		"channel-absence-proof-sha256": s.ProveChannel(top.ID{1}).Encode(), "meta-proof-sha256": s.ProveMeta().Encode(), "snapshot-sha256": s.Encode(),
	} {
		sum := sha256.Sum256(proof)
		put(name, sum[:])
	}
}

// Each vector on the page is what the code makes, and each that the code makes
// is on the page. UPDATE=1 writes the page's vectors anew.
func TestVectors(t *testing.T) {
	want := vectors(t)
	raw, err := os.ReadFile(page)
	must(t, err)
	var out bytes.Buffer
	inside, seen := false, map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line := lines.Text()
		switch {
		case line == "```vectors":
			inside = true
		case line == "```":
			inside = false
		case inside:
			name, value, _ := strings.Cut(line, " ")
			value = strings.TrimSpace(value)
			seen[name] = true
			if want[name] != value && os.Getenv("UPDATE") == "" {
				t.Errorf("%s is on the page %s, the code makes %s", name, value, want[name])
			}
			line = fmt.Sprintf("%-28s %s", name, want[name])
		}
		out.WriteString(line + "\n")
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("%s is not on the page", name)
		}
	}
	if os.Getenv("UPDATE") != "" {
		must(t, os.WriteFile(page, out.Bytes(), 0o644))
	}
}
