package home

import (
	"fmt"

	"top/lib/keys"
)

// NodeKey reads a node key: a file of 64 hex digits that only its owner may read;
// "" is the home's. It signs as a provider, and cannot spend.
func NodeKey(d Dir, path string) (keys.Private, error) {
	if path == "" {
		path = d.Path("keys", "node.key")
	}
	raw, err := ReadSecret(path)
	if err != nil {
		return keys.Private{}, err
	}
	k, err := keys.ParseSeed(string(raw))
	if err != nil {
		return k, fmt.Errorf("%s is no node key: %w", path, err)
	}
	return k, nil
}
