package ledger

import (
	"crypto/sha256"
	"math/bits"
	"sync"

	"top/lib/top"
)

// Prefixes that keep a leaf from being read as an inner node, and a page from
// being read as a trie's node (RFC 6962 does the same).
const (
	pagePrefix  = 0
	innerPrefix = 1
	triePrefix  = 2
)

// A pageTree is a Merkle tree over pages of 64 accounts, in order. Pages that
// are not there hash to zero, and so does an inner node over two zeros.
type pageTree struct {
	levels [][]top.ID // levels[0] are the pages
	dirty  []uint64   // a bit for each page
}

// touch marks the page of an account as changed; the page may be new.
func (t *pageTree) touch(account uint32) {
	page := int(account) / pageSize
	for page/64 >= len(t.dirty) {
		t.dirty = append(t.dirty, 0)
	}
	t.dirty[page/64] |= 1 << (page % 64)
}

// root hashes what changed. page gives a page's bytes, and may reuse the buffer
// it is given; it is called from several goroutines, for different pages.
func (t *pageTree) root(page func(int, []byte) []byte) top.ID {
	changed := t.takeDirty()
	if len(changed) > 0 {
		t.grow(changed[len(changed)-1] + 1)
		t.hashPages(changed, page)
		t.hashInner(changed)
	}
	if len(t.levels) == 0 {
		return top.ID{}
	}
	return t.levels[len(t.levels)-1][0]
}

func (t *pageTree) takeDirty() (pages []int) {
	for w, word := range t.dirty {
		for ; word != 0; word &= word - 1 {
			pages = append(pages, w*64+bits.TrailingZeros64(word))
		}
		t.dirty[w] = 0
	}
	return pages
}

// grow makes room for n pages on every level.
func (t *pageTree) grow(n int) {
	for level := 0; ; level++ {
		if level == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		for len(t.levels[level]) < n {
			t.levels[level] = append(t.levels[level], top.ID{})
		}
		if len(t.levels[level]) == 1 && level == len(t.levels)-1 {
			return
		}
		n = (len(t.levels[level]) + 1) / 2
	}
}

// parallelFrom is the number of pages above which hashing is worth a second
// goroutine. The result does not depend on it.
const parallelFrom = 64

func (t *pageTree) hashPages(pages []int, page func(int, []byte) []byte) {
	hash := func(part []int) {
		var buf []byte
		for _, p := range part {
			buf = page(p, buf)
			t.levels[0][p] = hashPage(buf)
		}
	}
	if len(pages) < parallelFrom {
		hash(pages)
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { hash(pages[:len(pages)/2]) })
	hash(pages[len(pages)/2:])
	wg.Wait()
}

func hashPage(b []byte) (id top.ID) {
	h := sha256.New()
	h.Write([]byte{pagePrefix})
	h.Write(b)
	h.Sum(id[:0])
	return id
}

// hashInner hashes the parents of changed nodes, level by level.
func (t *pageTree) hashInner(changed []int) {
	for level := 1; level < len(t.levels); level++ {
		below := t.levels[level-1]
		n := 0
		for _, c := range changed {
			p := c / 2
			if n > 0 && changed[n-1] == p {
				continue
			}
			changed[n] = p
			n++
			t.levels[level][p] = hashInner(below[2*p], at(below, 2*p+1))
		}
		changed = changed[:n]
	}
}

func at(level []top.ID, i int) top.ID {
	if i < len(level) {
		return level[i]
	}
	return top.ID{}
}

func hashInner(l, r top.ID) top.ID {
	if l == (top.ID{}) && r == (top.ID{}) {
		return top.ID{}
	}
	var b [65]byte
	b[0] = innerPrefix
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// path is the siblings of a page, from the leaf up. The tree must be clean.
func (t *pageTree) path(page int) (path []top.ID) {
	for level := 0; level < len(t.levels)-1; level++ {
		path = append(path, at(t.levels[level], page^1))
		page /= 2
	}
	return path
}

// pageRoot is the root over a page at a place, by its siblings; false when the
// place does not fit the path.
func pageRoot(b []byte, page uint32, path []top.ID) (top.ID, bool) {
	id := hashPage(b)
	for _, sibling := range path {
		if page&1 == 0 {
			id = hashInner(id, sibling)
		} else {
			id = hashInner(sibling, id)
		}
		page >>= 1
	}
	return id, page == 0
}
