package keys

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tyler-smith/go-bip39"
	"github.com/tyler-smith/go-bip39/wordlists"

	"top/lib/top"
)

// Paths of SLIP-0010. One set of words gives the account's key and, by a path
// of its own, the node's, so that words restore both.
const (
	AccountPath = "m/44'/7011'/0'"
	NodePath    = "m/44'/7011'/1'"
)

// NewWords writes entropy of 16, 20, 24, 28 or 32 bytes as 12 to 24 English
// words (BIP-39).
func NewWords(entropy []byte) (string, error) {
	w, err := bip39.NewMnemonic(entropy)
	if err != nil {
		return "", fmt.Errorf("words of %d bytes: %v: %w", len(entropy), err, top.ErrInvalid)
	}
	return w, nil
}

// SeedFromWords is the BIP-39 seed of words and an optional passphrase. White
// space and capitals do not matter; a word that is not in the list is named. The
// passphrase is ASCII: BIP-39 wants other text in one normal form of Unicode, and
// the same letters in another form would give other keys without a word (K4).
func SeedFromWords(words, passphrase string) (seed [64]byte, err error) {
	for i := range len(passphrase) {
		if passphrase[i] >= utf8.RuneSelf {
			return seed, fmt.Errorf("passphrase of the words: want plain ASCII letters, digits and signs: %w", top.ErrInvalid)
		}
	}
	list := strings.Fields(strings.ToLower(words))
	for i, w := range list {
		if !slices.Contains(wordlists.English, w) {
			return seed, fmt.Errorf("word %d, %q, is not a BIP-39 word: %w", i+1, w, top.ErrInvalid)
		}
	}
	b, err := bip39.NewSeedWithErrorChecking(strings.Join(list, " "), passphrase)
	if err != nil {
		return seed, fmt.Errorf("%d words: a wrong number of them, or a wrong or misplaced word (the checksum does not fit): %w", len(list), top.ErrInvalid)
	}
	copy(seed[:], b)
	return seed, nil
}

// Derive is the ed25519 key at a path below a seed of 16 to 64 bytes (SLIP-0010).
// Every step must be hardened ("m/44'/7011'/0'"): ed25519 has no other.
func Derive(seed []byte, path string) (Private, error) {
	if len(seed) < 16 || len(seed) > 64 {
		return Private{}, fmt.Errorf("seed of %d bytes: want 16 to 64: %w", len(seed), top.ErrInvalid)
	}
	sum := hmacSHA512([]byte("ed25519 seed"), seed)
	steps := strings.Split(path, "/")
	if steps[0] != "m" {
		return Private{}, fmt.Errorf("path %q: does not begin with m: %w", path, top.ErrInvalid)
	}
	for _, s := range steps[1:] {
		digits, hardened := strings.CutSuffix(s, "'")
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || !hardened || len(digits) > 1 && digits[0] == '0' {
			return Private{}, fmt.Errorf("path %q: step %q: want a number below 2^31 and a ' (hardened): %w", path, s, top.ErrInvalid)
		}
		data := append([]byte{0}, sum[:32]...)
		data = binary.BigEndian.AppendUint32(data, uint32(n)|1<<31)
		sum = hmacSHA512(sum[32:], data)
	}
	return FromSeed([32]byte(sum[:32])), nil
}

func hmacSHA512(key, data []byte) []byte {
	h := hmac.New(sha512.New, key)
	h.Write(data)
	return h.Sum(nil)
}
