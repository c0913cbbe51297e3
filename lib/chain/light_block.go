package chain

import (
	"fmt"
	"os"
	"path/filepath"

	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"top/lib/home"
	"top/lib/top"
)

// A conflict is two headers that cannot be of one chain, of one height or of two
// that follow each other, and both are signed: a third of the validators or more
// sign two chains.
type conflict struct{ a, b *types.LightBlock }

func (c *conflict) Error() string {
	return fmt.Sprintf("validators signed two chains: block %d %s and block %d %s",
		c.a.Height, top.ID(c.a.Hash()), c.b.Height, top.ID(c.b.Hash()))
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
