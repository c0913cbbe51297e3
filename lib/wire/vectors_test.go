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
	"top/lib/stake"
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
	pre := wire.Preimage("top/example/1", chain, []byte("body"))
	put("preimage", pre)
	sig := keys.FromSeed([32]byte{1}).Sign(pre)
	put("preimage-sig", sig[:])
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
	transactions(t, put, chain, payer, node)
	state(t, put, chain)
	sealed, err := keys.SealCost([]byte("secret"), []byte("passphrase"), bytes.NewReader(counted(28)), 1)
	must(t, err)
	put("sealed", sealed)
	return v
}

// counted is the bytes 0, 1, 2 and so on.
func counted(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func idBytes(id top.ID) []byte { return id[:] }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deliveries are what pays for messages to the account of seed 03.
func deliveries(t *testing.T, put func(string, []byte), chain top.ChainID, payer keys.Private) {
	recipient, device := keys.FromSeed([32]byte{3}), keys.FromSeed([32]byte{4})
	cert := keys.Certificate{Chain: chain, Account: recipient.Public(), Role: "device", Key: device.Public(), Expiry: 1_800_000_000}
	must(t, cert.Sign(recipient.Signer()))
	put("certificate", cert.Encode())
	root := session.Extend(session.Extend(top.ID{}, top.ID{1}), top.ID{2})
	put("ack-root", idBytes(root))
	ack := session.Ack{Channel: top.ID{0xcc}, From: 10_000, To: 30_000, Count: 2, Root: root, Cert: cert}
	must(t, ack.Sign(device.Signer()))
	put("ack", ack.Encode())
	v := session.Voucher{Chain: chain, Channel: top.ID{0xcc}, Seq: 4, Amount: 60_000, Asides: []session.Aside{{Recipient: recipient.Public(), Base: 10_000, Amount: 40_000}}}
	must(t, v.Sign(payer.Signer()))
	put("voucher-aside", v.Encode())
	claim := session.Claim{Voucher: v, Acks: []session.Ack{ack}}
	put("claim-ack", claim.Encode())
	must(t, claim.Verify(payer.Public(), 1_700_000_000))
	if owed, err := claim.Owed(); err != nil || owed != 80_000 {
		t.Errorf("the claim owes %s, %v", owed, err)
	}
}

func sessions(t *testing.T, put func(string, []byte), chain top.ChainID, payer, node keys.Private) {
	var e wire.Encoder
	offer().Put(&e)
	put("offer", e.Out())
	hashes := session.NewHashChain([32]byte{9}, 10)
	ticket := session.Ticket{
		Chain: chain, Channel: top.ID{0xcc}, Session: top.SessionID{0x55}, Payer: payer.Public(), Node: node.Public(),
		Service: "relay", Unit: "message", Price: 10_000, Root: hashes.Root(), N: 10, Expiry: 1_800_000_000,
	}
	must(t, ticket.SignPayer(payer.Signer()))
	must(t, ticket.SignNode(node.Signer()))
	put("ticket", ticket.Encode())
	claim := promise(t, chain, payer)
	voucher, tick := claim.Voucher, claim.Ticks[0]
	if voucher.Anchors[0] != ticket.Anchor() {
		t.Error("the voucher does not go on from the ticket")
	}
	put("voucher", voucher.Encode())
	put("renewal", session.Renewal{Voucher: voucher, Base: []uint64{5}}.Encode())
	put("tick", tick.Encode())
	put("claim", claim.Encode())
	deliveries(t, put, chain, payer)
	leaves := []receipt.Leaf{{Amount: 50_000, Entry: top.ID{1}}, {Amount: 30_000, Entry: top.ID{2}}, {Amount: 10_000, Entry: top.ID{3}}}
	var log receipt.Log
	for _, l := range leaves {
		must(t, log.Append(l.Amount, l.Entry))
	}
	put("log", log.Encode())
	tree, err := receipt.NewTree(leaves)
	must(t, err)
	entry, err := tree.Prove(2)
	must(t, err)
	put("log-entry", entry.Encode())
	r := receipt.Receipt{Ticket: ticket, Claim: claim}
	r.LogRoot, r.LogSum, r.LogCount = log.Root()
	must(t, r.Sign(node.Signer()))
	put("receipt", r.Encode())
	put("receipt-id", idBytes(r.ID()))
	own := r
	own.Unverified = 2
	must(t, own.Sign(node.Signer()))
	must(t, own.Verify())
	put("receipt-unverified", own.Encode())
	put("log-root", idBytes(r.LogRoot))
	_, err = r.CheckEntry(entry)
	must(t, err)
	must(t, r.Verify())
}

// offer is what the node sells.
func offer() session.Offer {
	return session.Offer{Service: "relay", Unit: "message", Price: 10_000, Window: 64, Hold: []session.Hold{{Seconds: 3600, Factor: 1}}}
}

// promise is the claim of the vectors.
func promise(t *testing.T, chain top.ChainID, payer keys.Private) session.Claim {
	hashes := session.NewHashChain([32]byte{9}, 10)
	v := session.Voucher{Chain: chain, Channel: top.ID{0xcc}, Seq: 3, Amount: 50_000, Anchors: []session.Anchor{{Session: top.SessionID{0x55}, Price: 10_000, Root: hashes.Root(), N: 10}}}
	must(t, v.Sign(payer.Signer()))
	return session.Claim{Voucher: v, Ticks: []session.Tick{{Session: top.SessionID{0x55}, I: 4, W: hashes.At(4)}}}
}

func transactions(t *testing.T, put func(string, []byte), chain top.ChainID, payer, node keys.Private) {
	other := keys.FromSeed([32]byte{3}).Public()
	claim := promise(t, chain, payer)
	register := &ledger.Register{Name: "bob", Addrs: []string{"/dns4/bob.example/tcp/0"}, Offers: []session.Offer{offer()}, Capacity: 100_000, Stake: 0}
	must(t, register.SignNode(node.Signer(), chain, payer.Public()))
	enter := &ledger.Validator{Name: "v", Commission: 500, Amount: 1000}
	must(t, enter.SignValidator(keys.FromSeed([32]byte{4}).Signer(), chain, payer.Public()))
	for name, body := range map[string]ledger.Body{
		"tx-validator":   enter,
		"tx-delegate":    &ledger.Delegate{To: enter.ID, Amount: 300},
		"tx-undelegate":  &ledger.Undelegate{From: enter.ID, Amount: 0},
		"tx-redelegate":  &ledger.Redelegate{From: enter.ID, To: top.ValidatorID{5}, Amount: 300},
		"tx-unjail":      &ledger.Unjail{ID: enter.ID},
		"tx-propose":     &ledger.Propose{Name: "fee_per_byte", Value: 20},
		"tx-vote":        &ledger.Vote{Number: 1, Yes: true},
		"tx-transfer":    &ledger.Transfer{To: ledger.To(300), Amount: 1_250_000_000, Memo: "rent"},
		"tx-new":         &ledger.Transfer{To: ledger.ToAddress(other), Amount: 5},
		"tx-batch":       &ledger.Batch{New: []top.Address{other}, Records: []ledger.Record{{Index: 0, Amount: 7}, {Index: 301, Amount: 1 << 30}}},
		"tx-lock":        &ledger.Lock{Amount: 1},
		"tx-unlock":      &ledger.Unlock{Amount: 1},
		"tx-register":    register,
		"tx-unregister":  &ledger.Unregister{},
		"tx-open":        &ledger.Open{Provider: 2, Cap: 5, Expiry: 1_800_000_000},
		"tx-claim":       &ledger.Claim{Claim: claim},
		"tx-close":       &ledger.Close{Channel: top.ID{0xcc}},
		"tx-close-claim": &ledger.Close{Channel: top.ID{0xcc}, Claim: &claim},
		"tx-reclaim":     &ledger.Reclaim{Channel: top.ID{0xcc}},
		"tx-mailbox":     &ledger.Mailbox{Digest: top.ID{0xdd}, Seq: 3},
	} {
		tx, by := ledger.Tx{Chain: chain, From: 1, Nonce: 7, Expiry: 1_700_000_000, Body: body}, payer
		if name == "tx-claim" || name == "tx-close-claim" {
			tx.Nonce, by = 0, node
		}
		must(t, tx.Sign(by.Signer()))
		must(t, tx.Verify())
		back, err := ledger.Decode(tx.Encode())
		must(t, err)
		if !bytes.Equal(back.Encode(), tx.Encode()) {
			t.Errorf("%s is not read back", name)
		}
		put(name, tx.Encode())
		if name == "tx-transfer" {
			put("tx-transfer-id", idBytes(ledger.ID(tx.Encode())))
		}
	}
}

// world is the state of the vectors: two accounts, a node and a channel.
func world(t *testing.T, chain top.ChainID) (s *ledger.State, channel top.ID) {
	payer, node, other := keys.FromSeed([32]byte{1}), keys.FromSeed([32]byte{2}), keys.FromSeed([32]byte{3})
	p := ledger.DefaultParams(chain)
	p.FeePerByte = 0
	s, err := ledger.New(ledger.Genesis{Params: p, Time: 1_700_000_000, Accounts: []ledger.GenesisAccount{
		{Address: payer.Public(), Balance: 1000 * top.One}, {Address: other.Public(), Balance: 5, Locked: 7},
	}, Validators: []ledger.GenesisValidator{{ID: keys.FromSeed([32]byte{4}).Public(), Owner: payer.Public(), Stake: 2000 * top.One, Name: "v", Commission: 500}}})
	must(t, err)
	s.Begin(1, 1_700_000_001_000)
	register := &ledger.Register{Name: "bob", Offers: []session.Offer{offer()}, Capacity: 100_000}
	must(t, register.SignNode(node.Signer(), chain, other.Public()))
	for _, tx := range []struct {
		from uint32
		key  keys.Private
		body ledger.Body
	}{{1, other, register}, {0, payer, &ledger.Open{Provider: 1, Cap: top.One, Expiry: 1_700_001_000}}} {
		t1 := ledger.Tx{Chain: chain, From: tx.from, Nonce: 1, Expiry: 1_700_000_100, Body: tx.body}
		must(t, t1.Sign(tx.key.Signer()))
		r := s.Apply(&t1, len(t1.Encode()))
		if r.Code != 0 {
			t.Fatal(r.Message)
		}
		if r.Channel != nil {
			channel = *r.Channel
		}
	}
	return s, channel
}

func state(t *testing.T, put func(string, []byte), chain top.ChainID) {
	s, channel := world(t, chain)
	put("state-root", idBytes(s.Root()))
	put("account-absence", s.ProveAccount(top.Address{9}).Encode())
	put("channel-proof", s.ProveChannel(channel).Encode())
	put("channel-absence", s.ProveChannel(top.ID{1}).Encode())
	put("node-proof", s.ProveNode(keys.FromSeed([32]byte{2}).Public()).Encode())
	put("stake-proof", s.ProveStake(stake.ValidatorRow(keys.FromSeed([32]byte{4}).Public())).Encode())
	put("meta-proof", s.ProveMeta().Encode())
	for name, long := range map[string][]byte{
		"account-proof-sha256": s.ProveAccount(keys.FromSeed([32]byte{1}).Public()).Encode(), "snapshot-sha256": s.Encode(),
	} {
		sum := sha256.Sum256(long)
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
