package chain

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	cometed "github.com/cometbft/cometbft/crypto/ed25519"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"

	"top/lib/home"
	"top/lib/keys"
	"top/lib/mesh"
	"top/lib/top"
	"top/lib/wire"
)

// files names what a chain node keeps in its home:
//
//	keys/chain          the node's seed, 64 hex digits, mode 0600
//	chain/genesis.json  what the chain began with
//	chain/join.json     where to listen and whom to dial
//	chain/sign.json     what the validator signed last
//	chain/data/         CometBFT's stores and log, and the index
//	chain/state/        snapshots of the state
//	chain/syncing       there while a peer's snapshot is taken
type files struct{ dir home.Dir }

func (f files) root() string    { return f.dir.Path("chain") }
func (f files) seed() string    { return f.dir.Path("keys", "chain") }
func (f files) genesis() string { return f.dir.Path("chain", "genesis.json") }
func (f files) join() string    { return f.dir.Path("chain", "join.json") }
func (f files) sign() string    { return f.dir.Path("chain", "sign.json") }
func (f files) lock() string    { return f.dir.Path("chain", "lock") }
func (f files) data() string    { return f.dir.Path("chain", "data") }
func (f files) state() string   { return f.dir.Path("chain", "state") }
func (f files) syncing() string { return f.dir.Path("chain", "syncing") }

// A Join is where a node listens and whom it dials, as its home records it.
type Join struct {
	Type   string   `json:"type"`             // "join"
	Listen string   `json:"listen,omitempty"` // host:port of the validators' own protocol; "" takes a free port
	Mesh   string   `json:"mesh,omitempty"`   // multiaddress on which light clients are answered; "" is any
	Peers  []string `json:"peers,omitempty"`  // ID@HOST:PORT of nodes, or libp2p multiaddresses for a light client
	Trust  string   `json:"trust,omitempty"`  // HEIGHT:HASH from which a light client starts
	Light  bool     `json:"light,omitempty"`  // keeps no state
}

// Setup writes into dir what a node needs to join the chain of a genesis:
// a seed drawn from rand unless there is one, the genesis and the join. A home
// that holds another chain is top.ErrDenied.
func Setup(dir home.Dir, genesis []byte, join Join, rand io.Reader) error {
	f := files{dir}
	if _, err := ParseGenesis(genesis); err != nil {
		return err
	}
	if old, err := os.ReadFile(f.genesis()); err == nil && string(old) != string(genesis) {
		return top.Errorf(top.Denied, "%s holds another chain (use another --home, or remove %s)", dir, f.root())
	}
	if _, err := Seed(dir, rand); err != nil {
		return err
	}
	for _, d := range []string{f.root(), f.data(), f.state()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make home: %w", err)
		}
	}
	if err := writeNew(f.sign(), emptySignState); err != nil {
		return err
	}
	if err := home.WriteFile(f.genesis(), genesis, 0o600); err != nil {
		return err
	}
	return SaveJoin(dir, join)
}

// emptySignState is the record of a validator that never signed.
func emptySignState() ([]byte, error) {
	return cmtjson.Marshal(&privval.FilePVLastSignState{})
}

func writeNew(path string, make func() ([]byte, error)) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	b, err := make()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return home.WriteFile(path, b, 0o600)
}

// SaveJoin records where the node of dir listens and whom it dials.
func SaveJoin(dir home.Dir, j Join) error {
	j.Type = "join"
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("record join: %w", err)
	}
	return home.WriteFile(files{dir}.join(), append(b, '\n'), 0o600)
}

// LoadJoin reads what SaveJoin wrote; a home without a chain is
// top.ErrNotFound.
func LoadJoin(dir home.Dir) (j Join, err error) {
	b, err := os.ReadFile(files{dir}.join())
	if errors.Is(err, fs.ErrNotExist) {
		return j, noChain(dir)
	}
	if err != nil {
		return j, fmt.Errorf("read join: %w", err)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return j, fmt.Errorf("read %s: %v: %w", files{dir}.join(), err, top.ErrInvalid)
	}
	return j, nil
}

func noChain(dir home.Dir) error {
	return top.Errorf(top.NotFound, "%s holds no chain (make one: top-chain init, or join one: top-chain init --genesis FILE --peer ADDR)", dir)
}

// LoadGenesis reads the genesis file of dir as it is.
func LoadGenesis(dir home.Dir) ([]byte, error) {
	b, err := os.ReadFile(files{dir}.genesis())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noChain(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	return b, nil
}

// Seed is the secret from which the keys of a node's roles are derived. The
// first call draws it from rand.
func Seed(dir home.Dir, rand io.Reader) (seed [32]byte, err error) {
	path := files{dir}.seed()
	raw, err := home.ReadSecret(path)
	if errors.Is(err, top.ErrNotFound) {
		if err := dir.Make(); err != nil {
			return seed, err
		}
		if _, err := io.ReadFull(rand, seed[:]); err != nil {
			return seed, fmt.Errorf("draw seed: %w", err)
		}
		return seed, home.WriteFile(path, []byte(hex.EncodeToString(seed[:])+"\n"), 0o600)
	}
	if err != nil {
		return seed, err
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(b) != len(seed) {
		return seed, top.Errorf(top.Invalid, "%s is not 64 hex digits", path)
	}
	return [32]byte(b), nil
}

// The roles of a chain node, each with a key of its own.
const (
	roleConsensus = "top/chain/consensus/1" // signs votes
	rolePeer      = "top/chain/peer/1"      // names the node among validators
	roleMesh      = "top/chain/mesh/1"      // names the node among light clients
)

// roleSeed derives the seed of one role.
func roleSeed(seed [32]byte, role string) [32]byte { return wire.Digest(role, seed[:]) }

// roleKey is the key of one role, as CometBFT holds it.
func roleKey(seed [32]byte, role string) cometed.PrivKey {
	s := roleSeed(seed, role)
	return cometed.PrivKey(ed25519.NewKeyFromSeed(s[:]))
}

// meshKey is a node's identity among light clients.
func meshKey(seed [32]byte) keys.Private { return keys.FromSeed(roleSeed(seed, roleMesh)) }

// MeshID is the name of the node of dir among light clients: what stands after
// /p2p/ in its address.
func MeshID(dir home.Dir, rand io.Reader) (string, error) {
	seed, err := Seed(dir, rand)
	if err != nil {
		return "", err
	}
	return mesh.ID(meshKey(seed))
}

func peerID(seed [32]byte) p2p.ID { return p2p.PubKeyToID(roleKey(seed, rolePeer).PubKey()) }

func (n *Node) peerKey() *p2p.NodeKey { return &p2p.NodeKey{PrivKey: roleKey(n.seed, rolePeer)} }
