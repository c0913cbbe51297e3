package wallet

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"top/lib/api"
	"top/lib/keys"
	"top/lib/top"
)

// The vectors of docs/wire.md, "Signing record" and "Message", are what the code
// makes.
func TestVectors(t *testing.T) {
	key, node, channel := keys.FromSeed([32]byte{1}), top.NodeID(keys.FromSeed([32]byte{2}).Public()), top.ID{0xcc}
	e := api.SignedEntry{
		Type: "signed", Seq: 1, Time: top.UnixMilli(1_700_000_000_000), What: "voucher", Service: "relay", Peer: &node, Channel: &channel,
		Number: 3, Exposed: 70, Charged: 30, Digest: top.ID{0xdd},
	}
	sig, err := key.Signer().Sign(recordDomain, top.ChainID{}, entryBody(e))
	if err != nil {
		t.Fatal(err)
	}
	e.Sig = sig[:]
	if err := CheckEntry(key.Public(), e, 0, top.ID{}); err != nil {
		t.Error(err)
	}
	m, err := SignMessage(key, top.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	payer := PayerKey(key, top.ChainID{1, 2, 3, 4, 5, 6, 7, 8}, 7).Public()
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```vectors lib/wallet\n")
	block, _, _ = strings.Cut(block, "```")
	want := fmt.Sprintf("signed-entry-sig %s signed-entry-digest %s payer-key %s message-sig %s", hex.EncodeToString(e.Sig), EntryDigest(e), hex.EncodeToString(payer[:]), hex.EncodeToString(m.Sig))
	if strings.Join(strings.Fields(block), " ") != want {
		t.Errorf("the page has\n %s, the code makes\n %s", block, want)
	}
}
