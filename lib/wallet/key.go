package wallet

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"top/lib/home"
	"top/lib/keys"
	"top/lib/top"
)

// An Identity is what of a wallet everybody may know.
type Identity struct {
	Type    string      `json:"type"` // "wallet"
	Address top.Address `json:"address"`
	Node    top.NodeID  `json:"node"`
}

// The files of a wallet: the words are sealed; the node key is not, since a
// daemon that nobody attends uses it, and it cannot spend.
func keyFile(dir home.Dir) string  { return dir.Path("keys", "account.key") }
func nodeFile(dir home.Dir) string { return dir.Path("keys", "node.key") }
func idFile(dir home.Dir) string   { return dir.Path("wallet.json") }

func makeFolder(dir home.Dir) error {
	if err := dir.Make(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir.Path("wallet", "batches"), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

// derive gives the keys of a wallet's words.
func derive(words string) (account, node keys.Private, err error) {
	seed, err := keys.SeedFromWords(words, "")
	if err != nil {
		return account, node, err
	}
	if account, err = keys.Derive(seed[:], keys.AccountPath); err != nil {
		return account, node, err
	}
	node, err = keys.Derive(seed[:], keys.NodePath)
	return account, node, err
}

// Create makes the wallet of words in a home. A home that has one is
// top.ErrBusy.
func Create(dir home.Dir, words string, passphrase []byte, rand io.Reader) (id Identity, err error) {
	words = strings.Join(strings.Fields(strings.ToLower(words)), " ")
	account, node, err := derive(words)
	if err != nil {
		return id, err
	}
	if _, err := os.Stat(keyFile(dir)); err == nil {
		return id, top.Errorf(top.Busy, "%s holds a wallet already (use another --home, or move %s away first: it is the only copy)", dir, keyFile(dir))
	}
	if len(passphrase) == 0 {
		return id, top.Errorf(top.Usage, "the passphrase is empty")
	}
	if err := makeFolder(dir); err != nil {
		return id, err
	}
	sealed, err := keys.Seal([]byte(words), passphrase, rand)
	if err != nil {
		return id, err
	}
	id = Identity{"wallet", account.Public(), node.Public()}
	public, err := json.Marshal(id)
	if err != nil {
		return id, fmt.Errorf("write wallet: %w", err)
	}
	seed := node.Seed()
	// The sealed key comes last: with it the wallet is made.
	for _, f := range []struct {
		path string
		data []byte
	}{
		{nodeFile(dir), []byte(hex.EncodeToString(seed[:]) + "\n")},
		{idFile(dir), append(public, '\n')},
		{keyFile(dir), sealed},
	} {
		if err := home.WriteFile(f.path, f.data, 0o600); err != nil {
			return id, err
		}
	}
	return id, nil
}

// Load reads who a home's wallet is, without its passphrase.
func Load(dir home.Dir) (id Identity, err error) {
	b, err := os.ReadFile(idFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return id, noWallet(dir)
	}
	if err != nil {
		return id, fmt.Errorf("read wallet: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil || id.Address.IsZero() {
		return id, top.Errorf(top.Invalid, "%s is damaged: %v (top-wallet import writes it anew from the words)", idFile(dir), err)
	}
	return id, nil
}

func noWallet(dir home.Dir) error {
	return top.Errorf(top.NotFound, "%s holds no wallet (make one: top-wallet new, or bring one: top-wallet import)", dir)
}

// Sealed is the sealed key file as it is.
func Sealed(dir home.Dir) ([]byte, error) {
	b, err := home.ReadSecret(keyFile(dir))
	if errors.Is(err, top.ErrNotFound) {
		return nil, noWallet(dir)
	}
	return b, err
}

// Words opens a sealed key file. A wrong passphrase is top.ErrDenied.
func Words(sealed, passphrase []byte) (string, error) {
	b, err := keys.Open(sealed, passphrase)
	return string(b), err
}

// Unlock opens a home's account key.
func Unlock(dir home.Dir, passphrase []byte) (keys.Private, error) {
	sealed, err := Sealed(dir)
	if err != nil {
		return keys.Private{}, err
	}
	words, err := Words(sealed, passphrase)
	if err != nil {
		return keys.Private{}, err
	}
	account, _, err := derive(words)
	return account, err
}
