package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"time"

	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/types"

	"top/lib/home"
	"top/lib/ledger"
	"top/lib/stake"
	"top/lib/top"
)

// maxAge is how long evidence of double signing counts at most, and so the longest
// time that a light client may trust a header (economy.md, "Light clients"). It is
// always shorter than the time that undelegated coins take to be free.
const (
	maxAge       = 14 * 24 * time.Hour
	maxAgeBlocks = int64(maxAge / emptyBlocks)
)

// evidenceAge is maxAge on a chain where coins take so long to be free.
func evidenceAge(p ledger.Params) time.Duration {
	return min(maxAge, time.Duration(p.Stake.UnbondSeconds)*time.Second*2/3)
}

// A Genesis is what a chain begins with: CometBFT's document, whose app_state is
// the ledger's.
type Genesis struct {
	Chain  top.ChainID
	Hash   top.ID // SHA-256 of the file, without white space around it
	Doc    *types.GenesisDoc
	Ledger ledger.Genesis
}

// DrawChainID draws the id of a new chain.
func DrawChainID(rand io.Reader) (id top.ChainID, err error) {
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return id, fmt.Errorf("draw chain id: %w", err)
	}
	return id, nil
}

// NewGenesis is the genesis file of a chain. Its validators are those with stake in
// the ledger's genesis; without any there, fixed ones with these consensus keys
// (ConsensusKey) and equal power. The time of the ledger's genesis becomes that of
// the chain.
func NewGenesis(g ledger.Genesis, fixed [][32]byte) ([]byte, error) {
	s, err := ledger.New(g)
	if err != nil {
		return nil, err
	}
	powers := s.Stake().Powers()
	if len(powers) == 0 {
		for _, v := range fixed {
			powers = append(powers, stake.Power{ID: v, Power: 10})
		}
	}
	if len(powers) == 0 {
		return nil, top.Errorf(top.Invalid, "a chain needs a validator")
	}
	app, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("write genesis: %w", err)
	}
	params := types.DefaultConsensusParams()
	params.Block.MaxBytes = maxBlock
	params.Evidence.MaxAgeDuration = evidenceAge(g.Params)
	params.Evidence.MaxAgeNumBlocks = maxAgeBlocks
	doc := types.GenesisDoc{
		GenesisTime:     time.Unix(int64(g.Time), 0).UTC(),
		ChainID:         g.Params.Chain.String(),
		InitialHeight:   1,
		ConsensusParams: params,
		AppState:        app,
	}
	for i, p := range powers {
		key := cometed.PubKey(bytes.Clone(p.ID[:]))
		doc.Validators = append(doc.Validators, types.GenesisValidator{
			Address: key.Address(), PubKey: key, Power: int64(p.Power), Name: fmt.Sprintf("val%d", i),
		})
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("write genesis: %v: %w", err, top.ErrInvalid)
	}
	b, err := cmtjson.MarshalIndent(&doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write genesis: %w", err)
	}
	return append(b, '\n'), nil
}

// ParseGenesis reads a genesis file and checks that both halves of it name the
// same chain and time.
func ParseGenesis(raw []byte) (*Genesis, error) {
	doc, err := types.GenesisDocFromJSON(raw)
	if err != nil {
		return nil, top.Errorf(top.Invalid, "not a genesis file: %v", err)
	}
	id, err := top.ParseChainID(doc.ChainID)
	if err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	g, err := ledger.ParseGenesis(doc.AppState)
	if err != nil {
		return nil, err
	}
	if g.Params.Chain != id || doc.InitialHeight != 1 || len(doc.Validators) == 0 || int64(g.Time) != doc.GenesisTime.Unix() {
		return nil, top.Errorf(top.Invalid, "the genesis file contradicts itself: chain %s and %s, first height %d, %d validators",
			id, g.Params.Chain, doc.InitialHeight, len(doc.Validators))
	}
	if err := sameSet(g, doc.Validators); err != nil {
		return nil, err
	}
	return &Genesis{Chain: id, Hash: sha256.Sum256(bytes.TrimSpace(raw)), Doc: doc, Ledger: g}, nil
}

// ConsensusKey is the public key with which the node of dir votes.
func ConsensusKey(dir home.Dir, rand io.Reader) (key [32]byte, err error) {
	seed, err := Seed(dir, rand)
	if err != nil {
		return key, err
	}
	return [32]byte(roleKey(seed, roleConsensus).PubKey().Bytes()), nil
}

// PeerID is the name of the node of dir among validators: the part before the
// @ of its peer address.
func PeerID(dir home.Dir, rand io.Reader) (string, error) {
	seed, err := Seed(dir, rand)
	if err != nil {
		return "", err
	}
	return string(peerID(seed)), nil
}
