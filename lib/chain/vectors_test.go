package chain

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"top/lib/top"
)

// The vectors of docs/wire.md, "Transaction proof", are what the code makes.
func TestVectors(t *testing.T) {
	channel := top.ID{0xcc}
	p := TxProof{
		ID: top.ID{0x77}, Height: 42, Index: 1, Total: 2, Bundles: 1, Root: top.ID{0x99}, Outcome: Outcome{Code: 0, Fee: 1810, Paid: 90_000, Channel: &channel},
		InBlock: [][]byte{make([]byte, 32)}, InNext: [][]byte{channel[:]},
	}
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```vectors lib/chain\n")
	block, _, _ = strings.Cut(block, "```")
	if want := "tx-proof " + hex.EncodeToString(p.Encode()); strings.Join(strings.Fields(block), " ") != want {
		t.Errorf("the page has\n %s, the code makes\n %s", block, want)
	}
}
