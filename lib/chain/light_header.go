package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/types"

	"top/lib/api"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
)

const (
	// trustingPeriod is how old a verified header may be for a new one to be
	// verified by it: two thirds of the time for which evidence counts, so that
	// validators who sign two chains can still be punished (economy.md, "Light
	// clients"). A chain where coins are free sooner has a shorter one.
	trustingPeriod = maxAge * 2 / 3
	maxDrift       = 10 * time.Second // that a header may be ahead of this clock
	keepHeaders    = 512              // verified headers kept in memory
	maxWalk        = 20_000           // headers walked back by their hash links
	maxLink        = 64               // headers walked back rather than verified by votes

	// lag is how many blocks an answer may be behind the newest header verified:
	// peers are not all at the same block.
	lag = 2
)

// headers is the verified headers of a light client: the newest, the one that
// everything began with, and some between.
type headers struct {
	chain   string
	path    string // of the file that keeps the newest
	genesis *Genesis
	now     func() time.Time

	mu    sync.Mutex
	first *types.LightBlock // what was trusted from the start
	last  *types.LightBlock // the newest verified
	byH   map[int64]*types.LightBlock
	order []int64    // of byH, oldest put first
	saved int64      // height in the file
	told  top.Height // the newest header that an answer was proven by
}

// A source gives light blocks, true or false.
type source interface {
	lightBlock(ctx context.Context, h top.Height, wait time.Duration) (*types.LightBlock, error)
}

// parseTrust reads HEIGHT:HASH.
func parseTrust(s string) (h top.Height, hash top.ID, err error) {
	at, text, ok := strings.Cut(s, ":")
	if ok {
		err = h.UnmarshalText([]byte(at))
	}
	if !ok || err != nil || h == 0 {
		return 0, hash, top.Errorf(top.Usage, "--trust %q: want HEIGHT:HASH (top-chain status on a node that you trust shows both)", s)
	}
	if hash, err = top.ParseID(strings.ToLower(text)); err != nil {
		return 0, hash, top.Errorf(top.Usage, "--trust %q: %v", s, err)
	}
	return h, hash, nil
}

// load takes up the newest header verified by an earlier run, unless trust names
// a newer one or it is too old to verify another.
func (hs *headers) load(trust string) error {
	b, err := os.ReadFile(hs.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read last header: %w", err)
	}
	lb, err := parseLightBlock(b)
	if err == nil {
		err = lb.ValidateBasic(hs.chain)
	}
	if err != nil {
		return top.Errorf(top.Invalid, "%s is damaged: %v (remove it: the light client starts from the genesis or from --trust)", hs.path, err)
	}
	if trust != "" {
		h, hash, err := parseTrust(trust)
		switch {
		case err != nil:
			return err
		case int64(h) > lb.Height, hs.old(lb):
			return nil
		case int64(h) == lb.Height && hash != top.ID(lb.Hash()):
			return top.Errorf(top.Failed, "block %s has hash %s, --trust says %s (if it is --trust that is right, remove %s)", h, top.ID(lb.Hash()), hash, hs.path)
		}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.startLocked(lb)
	hs.saved = lb.Height
	return nil
}

// old says whether a header's validators may have left since: then it verifies
// nothing any more.
func (hs *headers) old(lb *types.LightBlock) bool { return hs.now().Sub(lb.Time) >= hs.period() }

// period is the trusting period of this chain.
func (hs *headers) period() time.Duration {
	return min(trustingPeriod, evidenceAge(hs.genesis.Ledger.Params)*2/3)
}

// begin verifies the header that everything else is verified by: the one that
// --trust names, or block 1 against the genesis.
func (hs *headers) begin(ctx context.Context, from source, trust string) error {
	height, hash := top.Height(1), top.ID{}
	if trust != "" {
		var err error
		if height, hash, err = parseTrust(trust); err != nil {
			return err
		}
	}
	lb, err := from.lightBlock(ctx, height, readPatience)
	if err != nil {
		return err
	}
	if err := lb.ValidateBasic(hs.chain); err != nil {
		return top.Errorf(top.Failed, "the first header is false: %v", err)
	}
	if lb.Height != int64(height) {
		return top.Errorf(top.Failed, "asked for block %s to begin with, got %d", height, lb.Height)
	}
	if trust == "" {
		err = hs.matchGenesis(lb)
	} else if top.ID(lb.Hash()) != hash {
		err = top.Errorf(top.Failed, "block %s has hash %s, --trust says %s", height, top.ID(lb.Hash()), hash)
	}
	if err != nil {
		return fmt.Errorf("the first header is false: %w", err)
	}
	if err := lb.ValidatorSet.VerifyCommitLight(hs.chain, lb.Commit.BlockID, lb.Height, lb.Commit); err != nil {
		return top.Errorf(top.Failed, "the first header is false: %v", err)
	}
	if hs.old(lb) {
		return top.Errorf(top.Failed, "block %d is %s old, too old to trust its validators (start from a newer header: top-chain init --light --trust HEIGHT:HASH, as a node that you trust shows)",
			lb.Height, hs.now().Sub(lb.Time).Round(time.Hour))
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.last != nil {
		return nil // another call was first
	}
	hs.startLocked(lb)
	return nil
}

// startLocked takes the first header.
func (hs *headers) startLocked(lb *types.LightBlock) {
	hs.first, hs.last = lb, lb
	hs.byH[lb.Height], hs.order = lb, append(hs.order, lb.Height)
}

// matchGenesis checks block 1: the genesis names its validators and the state
// before it.
func (hs *headers) matchGenesis(lb *types.LightBlock) error {
	var vals []*types.Validator
	for _, v := range hs.genesis.Doc.Validators {
		vals = append(vals, types.NewValidator(v.PubKey, v.Power))
	}
	if !bytes.Equal(lb.ValidatorsHash, types.NewValidatorSet(vals).Hash()) {
		return top.Errorf(top.Failed, "its validators are not those of the genesis")
	}
	s, err := ledger.New(hs.genesis.Ledger)
	if err != nil {
		return err
	}
	if root := s.Root(); !bytes.Equal(lb.AppHash, root[:]) {
		return top.Errorf(top.Failed, "its root is not that of the genesis")
	}
	return nil
}

// head is the newest verified header; false before there is one.
func (hs *headers) head() (api.Header, bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.last == nil {
		return api.Header{}, false
	}
	return headerOf(hs.last), true
}

// newest is the newest verified light block; nil before there is one.
func (hs *headers) newest() *types.LightBlock {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.last
}

// floor is how old the header of the next answer may be: none is older than one
// given before.
func (hs *headers) floor() (h top.Height) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.last != nil && hs.last.Height > lag {
		h = top.Height(hs.last.Height - lag)
	}
	return max(h, hs.told)
}

// tell notes the header by which an answer was proven.
func (hs *headers) tell(h top.Height) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.told = max(hs.told, h)
}

func headerOf(lb *types.LightBlock) api.Header {
	return api.Header{
		Height: top.Height(lb.Height), Time: top.TimeOf(lb.Time), Hash: top.ID(lb.Hash()), Root: top.ID(lb.AppHash),
	}
}

// keepLocked remembers a verified header and returns it, or the one of the same
// hash that was verified before. The newest never goes back. One that does not
// fit its neighbours is a conflict: both are signed.
func (hs *headers) keepLocked(lb *types.LightBlock) (*types.LightBlock, error) {
	if known := hs.knownLocked(lb.Height); known != nil {
		if !bytes.Equal(known.Hash(), lb.Hash()) {
			return nil, &conflict{known, lb}
		}
		return known, nil
	}
	if below := hs.knownLocked(lb.Height - 1); below != nil && !follows(lb, below) {
		return nil, &conflict{below, lb}
	}
	if above := hs.knownLocked(lb.Height + 1); above != nil && !follows(above, lb) {
		return nil, &conflict{above, lb}
	}
	if len(hs.order) >= keepHeaders {
		delete(hs.byH, hs.order[0])
		hs.order = hs.order[1:]
	}
	hs.byH[lb.Height] = lb
	hs.order = append(hs.order, lb.Height)
	if lb.Height > hs.last.Height {
		hs.last = lb
	}
	return lb, nil
}

// follows says whether a header names the one below it.
func follows(above, below *types.LightBlock) bool {
	return bytes.Equal(above.LastBlockID.Hash, below.Hash())
}

// knownLocked is the verified header at a height, nil if it is not kept.
func (hs *headers) knownLocked(h int64) *types.LightBlock {
	for _, lb := range []*types.LightBlock{hs.byH[h], hs.first, hs.last} {
		if lb != nil && lb.Height == h {
			return lb
		}
	}
	return nil
}

// verified is the header at a height, from those verified before or fetched and
// verified now. Height 0 asks for the newest that the source has.
func (hs *headers) verified(ctx context.Context, from source, h top.Height, wait time.Duration) (*types.LightBlock, error) {
	hs.mu.Lock()
	known := hs.knownLocked(int64(h))
	hs.mu.Unlock()
	if known != nil {
		return known, nil
	}
	lb, err := from.lightBlock(ctx, h, wait)
	if err != nil {
		return nil, err
	}
	if h != 0 && lb.Height != int64(h) {
		return nil, fmt.Errorf("asked for block %s, got %d: %w", h, lb.Height, top.ErrFailed)
	}
	return hs.accept(ctx, from, lb)
}

// accept verifies a light block and keeps it. It returns the one that is kept.
func (hs *headers) accept(ctx context.Context, from source, lb *types.LightBlock) (*types.LightBlock, error) {
	if err := lb.ValidateBasic(hs.chain); err != nil {
		return nil, fmt.Errorf("header %d is false: %v: %w", lb.Height, err, top.ErrFailed)
	}
	known, below, above := hs.around(lb.Height)
	switch {
	case known != nil && bytes.Equal(known.Hash(), lb.Hash()):
		return known, nil
	case known != nil && hs.signed(lb):
		return nil, &conflict{known, lb}
	case known != nil:
		return nil, fmt.Errorf("header %d is false: it is not the one verified before: %w", lb.Height, top.ErrFailed)
	case above != nil && above.Height-lb.Height <= maxLink:
		return hs.backward(ctx, from, above, lb)
	case below != nil && !hs.old(below):
		return hs.forward(ctx, from, below, lb)
	case above != nil:
		return hs.backward(ctx, from, above, lb)
	}
	return nil, top.Errorf(top.Failed, "the last verified header is older than %s (start from a newer one: top-chain init --light --trust HEIGHT:HASH, as a node that you trust shows)", hs.period())
}

// around is the verified header at a height, and the nearest below and above it.
func (hs *headers) around(h int64) (known, below, above *types.LightBlock) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	look := func(lb *types.LightBlock) {
		switch {
		case lb == nil:
		case lb.Height == h:
			known = lb
		case lb.Height < h && (below == nil || lb.Height > below.Height):
			below = lb
		case lb.Height > h && (above == nil || lb.Height < above.Height):
			above = lb
		}
	}
	look(hs.first)
	look(hs.last)
	for _, at := range hs.order {
		look(hs.byH[at])
	}
	return known, below, above
}

// signed says whether a light block that contradicts a verified one is signed
// all the same, by validators whom a verified header still vouches for.
func (hs *headers) signed(lb *types.LightBlock) bool {
	if lb.ValidateBasic(hs.chain) != nil {
		return false
	}
	known, below, above := hs.around(lb.Height)
	for _, by := range []*types.LightBlock{below, known, above} {
		switch {
		case by == nil || hs.old(by):
		case by == below:
			return light.Verify(by.SignedHeader, by.ValidatorSet, lb.SignedHeader, lb.ValidatorSet,
				hs.period(), hs.now(), maxDrift, light.DefaultTrustLevel) == nil
		case bytes.Equal(by.ValidatorsHash, lb.ValidatorsHash):
			return by.ValidatorSet.VerifyCommitLight(hs.chain, lb.Commit.BlockID, lb.Height, lb.Commit) == nil
		}
	}
	return false
}

// forward verifies lb by one below it, in halves where more than a third of the
// validators changed between (skipping verification, CometBFT spec
// "light-client/verification").
func (hs *headers) forward(ctx context.Context, from source, trusted, lb *types.LightBlock) (*types.LightBlock, error) {
	err := light.Verify(trusted.SignedHeader, trusted.ValidatorSet, lb.SignedHeader, lb.ValidatorSet,
		hs.period(), hs.now(), maxDrift, light.DefaultTrustLevel)
	var far light.ErrNewValSetCantBeTrusted
	if errors.As(err, &far) {
		at := trusted.Height + (lb.Height-trusted.Height)/2
		mid, err := from.lightBlock(ctx, top.Height(at), 0)
		if err != nil {
			return nil, err
		}
		if err := mid.ValidateBasic(hs.chain); err != nil || mid.Height != at {
			return nil, fmt.Errorf("header %d is false: asked for %d: %v: %w", mid.Height, at, err, top.ErrFailed)
		}
		if mid, err = hs.forward(ctx, from, trusted, mid); err != nil {
			return nil, err
		}
		return hs.forward(ctx, from, mid, lb)
	}
	if err != nil {
		return nil, fmt.Errorf("header %d is false: %v: %w", lb.Height, err, top.ErrFailed)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.keepLocked(lb)
}

// backward verifies lb by one above it, along the hash links between. A header
// that breaks the link is a conflict when it is signed.
func (hs *headers) backward(ctx context.Context, from source, above, lb *types.LightBlock) (*types.LightBlock, error) {
	if above.Height-lb.Height > maxWalk {
		return nil, top.Errorf(top.Failed, "block %d is too far below what this light client verified (ask a full node)", lb.Height)
	}
	for above.Height > lb.Height {
		below := lb
		if above.Height-1 > lb.Height {
			var err error
			if below, err = from.lightBlock(ctx, top.Height(above.Height-1), 0); err != nil {
				return nil, err
			}
		}
		if below.Height != above.Height-1 {
			return nil, fmt.Errorf("asked for block %d, got %d: %w", above.Height-1, below.Height, top.ErrFailed)
		}
		if !follows(above, below) && hs.signed(below) {
			return nil, &conflict{above, below}
		}
		if err := light.VerifyBackwards(below.Header, above.Header); err != nil {
			return nil, fmt.Errorf("header %d is false: %v: %w", below.Height, err, top.ErrFailed)
		}
		above = below
	}
	// The hash proves the header; the votes go to whoever asked for them.
	if err := lb.ValidatorSet.VerifyCommitLight(hs.chain, lb.Commit.BlockID, lb.Height, lb.Commit); err != nil {
		return nil, fmt.Errorf("header %d is false: %v: %w", lb.Height, err, top.ErrFailed)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.keepLocked(lb)
}

// save keeps the newest header over a restart.
func (hs *headers) save() error {
	hs.mu.Lock()
	lb := hs.last
	same := lb == nil || lb.Height == hs.saved
	hs.mu.Unlock()
	if same {
		return nil
	}
	b, err := encodeLightBlock(lb)
	if err != nil {
		return err
	}
	if err := home.WriteFile(hs.path, b, 0o600); err != nil {
		return err
	}
	hs.mu.Lock()
	hs.saved = lb.Height
	hs.mu.Unlock()
	return nil
}
