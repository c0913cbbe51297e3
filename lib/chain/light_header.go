package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cometbft/cometbft/light"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
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
	// clients").
	trustingPeriod = maxAge * 2 / 3
	maxDrift       = 10 * time.Second // that a header may be ahead of this clock
	keepHeaders    = 4096             // verified headers kept in memory
	maxWalk        = 20_000           // headers walked back by their hash links
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
	order []int64 // of byH, oldest put first
	saved int64   // height in the file
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

// load takes up the newest header verified by an earlier run.
func (hs *headers) load() error {
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
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.first, hs.last, hs.saved = lb, lb, lb.Height
	hs.keepLocked(lb)
	return nil
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
	if err := lb.ValidateBasic(hs.chain); err != nil || lb.Height != int64(height) {
		return top.Errorf(top.Failed, "the first header is false: %v", err)
	}
	if trust == "" {
		err = hs.matchGenesis(lb)
	} else if top.ID(lb.Hash()) != hash {
		err = top.Errorf(top.Failed, "block %s has hash %s, --trust says %s", height, top.ID(lb.Hash()), hash)
	}
	if err == nil {
		err = lb.ValidatorSet.VerifyCommitLight(hs.chain, lb.Commit.BlockID, lb.Height, lb.Commit)
	}
	if err != nil {
		return fmt.Errorf("the first header is false: %w", err)
	}
	if age := hs.now().Sub(lb.Time); age > trustingPeriod {
		return top.Errorf(top.Failed, "block %d is %s old, too old to trust its validators (start from a newer header: top-chain init --light --trust HEIGHT:HASH, as a node that you trust shows)", lb.Height, age.Round(time.Hour))
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.first, hs.last = lb, lb
	hs.keepLocked(lb)
	return nil
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

func headerOf(lb *types.LightBlock) api.Header {
	return api.Header{
		Height: top.Height(lb.Height), Time: top.TimeOf(lb.Time), Hash: top.ID(lb.Hash()), Root: top.ID(lb.AppHash),
	}
}

// keepLocked remembers a verified header.
func (hs *headers) keepLocked(lb *types.LightBlock) {
	if _, ok := hs.byH[lb.Height]; ok {
		return
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
}

// verified is the header at a height, from those verified before or fetched and
// verified now. Height 0 asks for the newest that the source has.
func (hs *headers) verified(ctx context.Context, from source, h top.Height, wait time.Duration) (*types.LightBlock, error) {
	hs.mu.Lock()
	lb, known := hs.byH[int64(h)]
	hs.mu.Unlock()
	if known {
		return lb, nil
	}
	lb, err := from.lightBlock(ctx, h, wait)
	if err != nil {
		return nil, err
	}
	if h != 0 && lb.Height != int64(h) {
		return nil, fmt.Errorf("asked for block %s, got %d: %w", h, lb.Height, top.ErrFailed)
	}
	return lb, hs.accept(ctx, from, lb)
}

// accept verifies a light block and keeps it.
func (hs *headers) accept(ctx context.Context, from source, lb *types.LightBlock) error {
	if err := lb.ValidateBasic(hs.chain); err != nil {
		return fmt.Errorf("header %d is false: %v: %w", lb.Height, err, top.ErrFailed)
	}
	below, above := hs.around(lb.Height)
	if below != nil && hs.now().Sub(below.Time) < trustingPeriod {
		return hs.forward(ctx, from, below, lb)
	}
	if above != nil && above.Height != lb.Height {
		return hs.backward(ctx, from, above, lb)
	}
	return top.Errorf(top.Failed, "the last verified header is older than %s (start from a newer one: top-chain init --light --trust HEIGHT:HASH, as a node that you trust shows)", trustingPeriod)
}

// around is the nearest verified headers at or below and at or above a height.
func (hs *headers) around(h int64) (below, above *types.LightBlock) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, lb := range append([]*types.LightBlock{hs.first, hs.last}, hs.at(hs.order)...) {
		if lb.Height <= h && (below == nil || lb.Height > below.Height) {
			below = lb
		}
		if lb.Height >= h && (above == nil || lb.Height < above.Height) {
			above = lb
		}
	}
	return below, above
}

func (hs *headers) at(heights []int64) []*types.LightBlock {
	all := make([]*types.LightBlock, len(heights))
	for i, h := range heights {
		all[i] = hs.byH[h]
	}
	return all
}

// forward verifies lb by one below it, in halves where more than a third of the
// validators changed between (skipping verification, CometBFT spec
// "light-client/verification").
func (hs *headers) forward(ctx context.Context, from source, trusted, lb *types.LightBlock) error {
	if trusted.Height == lb.Height {
		if !bytes.Equal(trusted.Hash(), lb.Hash()) {
			return &conflict{trusted, lb}
		}
		return nil
	}
	err := light.Verify(trusted.SignedHeader, trusted.ValidatorSet, lb.SignedHeader, lb.ValidatorSet,
		trustingPeriod, hs.now(), maxDrift, light.DefaultTrustLevel)
	var far light.ErrNewValSetCantBeTrusted
	if errors.As(err, &far) && lb.Height > trusted.Height+1 {
		mid, err := from.lightBlock(ctx, top.Height((trusted.Height+lb.Height)/2), 0)
		if err != nil {
			return err
		}
		if err := mid.ValidateBasic(hs.chain); err != nil || mid.Height <= trusted.Height || mid.Height >= lb.Height {
			return fmt.Errorf("header %d is false: %v: %w", mid.Height, err, top.ErrFailed)
		}
		if err := hs.forward(ctx, from, trusted, mid); err != nil {
			return err
		}
		return hs.forward(ctx, from, mid, lb)
	}
	if err != nil {
		return fmt.Errorf("header %d is false: %v: %w", lb.Height, err, top.ErrFailed)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.keepLocked(lb)
	return nil
}

// backward verifies lb by one above it, along the hash links between.
func (hs *headers) backward(ctx context.Context, from source, above, lb *types.LightBlock) error {
	if above.Height-lb.Height > maxWalk {
		return top.Errorf(top.Failed, "block %d is too far below what this light client verified (ask a full node)", lb.Height)
	}
	for above.Height > lb.Height {
		below := lb
		if above.Height-1 > lb.Height {
			var err error
			if below, err = from.lightBlock(ctx, top.Height(above.Height-1), 0); err != nil {
				return err
			}
		}
		if below.Header == nil || below.Height != above.Height-1 {
			return fmt.Errorf("asked for block %d, got another: %w", above.Height-1, top.ErrFailed)
		}
		if err := light.VerifyBackwards(below.Header, above.Header); err != nil {
			return fmt.Errorf("header %d is false: %v: %w", below.Height, err, top.ErrFailed)
		}
		above = below
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.keepLocked(lb)
	return nil
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

// A conflict is two headers of one height that the validators signed both: a
// third of them or more sign two chains.
type conflict struct{ a, b *types.LightBlock }

func (c *conflict) Error() string {
	return fmt.Sprintf("two headers of block %d are signed: %s and %s", c.a.Height, top.ID(c.a.Hash()), top.ID(c.b.Hash()))
}

func (c *conflict) Unwrap() error { return top.ErrFailed }

// record writes both headers into a folder, for whoever judges.
func (c *conflict) record(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	for _, lb := range []*types.LightBlock{c.a, c.b} {
		b, err := encodeLightBlock(lb)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d-%s.lightblock", lb.Height, top.ID(lb.Hash()).Short())
		if err := home.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func encodeLightBlock(lb *types.LightBlock) ([]byte, error) {
	p, err := lb.ToProto()
	if err != nil {
		return nil, fmt.Errorf("header %d: %w", lb.Height, err)
	}
	b, err := p.Marshal()
	if err != nil {
		return nil, fmt.Errorf("header %d: %w", lb.Height, err)
	}
	return b, nil
}

// maxLightBlock bounds a light block: a thousand validators and their votes.
const maxLightBlock = 1 << 20

// parseLightBlock reads a light block from a stranger. It checks the form only.
func parseLightBlock(b []byte) (*types.LightBlock, error) {
	if len(b) > maxLightBlock {
		return nil, fmt.Errorf("light block: %d bytes: %w", len(b), top.ErrInvalid)
	}
	var p cmtproto.LightBlock
	if err := p.Unmarshal(b); err != nil {
		return nil, fmt.Errorf("light block: %v: %w", err, top.ErrInvalid)
	}
	lb, err := types.LightBlockFromProto(&p)
	if err != nil {
		return nil, fmt.Errorf("light block: %v: %w", err, top.ErrInvalid)
	}
	if lb.SignedHeader == nil || lb.Header == nil || lb.Commit == nil || lb.ValidatorSet == nil {
		return nil, fmt.Errorf("light block: a part is missing: %w", top.ErrInvalid)
	}
	return lb, nil
}
