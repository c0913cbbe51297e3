package chain

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
	"top/lib/wire"
)

// A snapshot is the state after one block, on disk: the state's encoding, its
// height and root before it, and SHA-256 of it all at the end. A node starts
// from the newest one that checks and lets CometBFT replay the blocks after it.
//
// keepSnapshots are kept, so that one torn by the disk costs only time.
const (
	keepSnapshots  = 2
	snapshotSuffix = ".state"
	snapshotMagic  = "top/chain-state/1"
)

// When the next snapshot is due.
const (
	snapshotBlocks = 2_000    // blocks since the last
	snapshotBytes  = 64 << 20 // bytes of transactions since the last
)

// snapshotParts is the bytes of a snapshot, one part after the other: a large state is
// not copied once more.
func snapshotParts(height top.Height, root top.ID, state []byte) [][]byte {
	var e wire.Encoder
	e.Raw([]byte(snapshotMagic))
	e.Uint64(uint64(height))
	e.Raw(root[:])
	sum := sha256.New()
	sum.Write(e.Out())
	sum.Write(state)
	return [][]byte{e.Out(), state, sum.Sum(nil)}
}

func decodeSnapshot(b []byte) (height top.Height, s *ledger.State, err error) {
	if len(b) < sha256.Size {
		return 0, nil, fmt.Errorf("snapshot: %d bytes: %w", len(b), top.ErrInvalid)
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if have := sha256.Sum256(body); string(have[:]) != string(sum) {
		return 0, nil, fmt.Errorf("snapshot: its checksum is wrong: %w", top.ErrInvalid)
	}
	d := wire.Decode(body, len(body))
	if string(d.Raw(len(snapshotMagic))) != snapshotMagic {
		d.Fail("not a snapshot")
	}
	height = top.Height(d.Uint64())
	root := d.ID()
	if err := d.Err(); err != nil {
		return 0, nil, err
	}
	if s, err = ledger.Load(d.Rest()); err != nil {
		return 0, nil, err
	}
	if s.Root() != root {
		return 0, nil, fmt.Errorf("snapshot at %d: its root is another: %w", height, top.ErrInvalid)
	}
	return height, s, nil
}

// saveSnapshot writes a snapshot and removes those older than the last two.
func saveSnapshot(dir string, height top.Height, root top.ID, state []byte) error {
	return saveSnapshotFile(dir, height, snapshotParts(height, root, state)...)
}

func snapshotPath(dir string, height top.Height) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", height, snapshotSuffix))
}

func saveSnapshotFile(dir string, height top.Height, parts ...[]byte) error {
	if err := home.WriteParts(snapshotPath(dir, height), 0o600, parts...); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	names, err := snapshots(dir)
	if err != nil {
		return err
	}
	for _, old := range names[min(keepSnapshots, len(names)):] {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old snapshot: %w", err)
		}
	}
	return nil
}

// snapshots is the files of dir, newest first.
func snapshots(dir string) ([]string, error) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var names []string
	for _, e := range es {
		if strings.HasSuffix(e.Name(), snapshotSuffix) && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

// errRead is a snapshot that the disk did not give; what it gave may be torn instead.
var errRead = errors.New("read snapshot")

func readSnapshot(name string) (top.Height, *ledger.State, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errRead, err)
	}
	return decodeSnapshot(b)
}

// loadSnapshot is the newest snapshot that checks and is not above limit, and
// the reasons why newer ones were passed over. With none, s is nil.
func loadSnapshot(dir string, limit top.Height) (height top.Height, s *ledger.State, skipped []error, err error) {
	names, err := snapshots(dir)
	if err != nil {
		return 0, nil, nil, err
	}
	for _, name := range names {
		h, state, err := readSnapshot(name)
		switch {
		case errors.Is(err, errRead):
			return 0, nil, skipped, err
		case err != nil:
			skipped = append(skipped, fmt.Errorf("%s: %w", name, err))
		case h > limit:
			skipped = append(skipped, fmt.Errorf("%s: above block %d, the last in the index", name, limit))
		default:
			return h, state, skipped, nil
		}
	}
	return 0, nil, skipped, nil
}
