package session

import (
	"fmt"
	"io"

	"top/lib/hashchain"
	"top/lib/top"
)

// A HashChain is the payer's side of an anchor: N ticks made from 32 random
// bytes, which must be fresh for every anchor and used once. It prints as
// "[secret]": whoever sees it can tick.
type HashChain struct{ w []top.ID }

// NewHashChain makes a chain of n ticks, 1 to MaxSteps.
func NewHashChain(seed [32]byte, n uint32) *HashChain {
	return NewHashChains([][32]byte{seed}, n)[0]
}

// NewHashChains makes a chain of n ticks, 1 to MaxSteps, from each seed. Four together
// take half as long again as one.
func NewHashChains(seeds [][32]byte, n uint32) []*HashChain {
	chains, all := make([]*HashChain, len(seeds)), make([][]top.ID, len(seeds))
	for i, seed := range seeds {
		all[i] = make([]top.ID, n+1)
		all[i][n] = seed
		chains[i] = &HashChain{all[i]}
	}
	hashchain.Fill(all...)
	return chains
}

// Root is w0, what an anchor shows.
func (h *HashChain) Root() top.ID { return h.w[0] }

// N is the number of ticks.
func (h *HashChain) N() uint32 { return uint32(len(h.w) - 1) }

// At is w_i, what tick i shows. Whoever knows it knows every earlier one.
func (h *HashChain) At(i uint32) top.ID { return h.w[i] }

// seed is the random bytes.
func (h *HashChain) seed() [32]byte { return h.w[len(h.w)-1] }

// Format hides the ticks from every verb.
func (HashChain) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// Hash applies SHA-256 n times to w.
func Hash(w top.ID, n uint32) top.ID { return hashchain.Hash(w, n) }
