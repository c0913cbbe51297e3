package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/pipe"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/wallet"
)

// A newRecord says what was made; its words are the money.
type newRecord struct {
	wallet.Identity
	Words string `json:"words,omitempty"`
}

func newVerb() tool.Verb {
	return tool.Verb{
		Name: "new", Summary: "make a wallet: draw 24 words, seal the key",
		Doc: `Prints the words once: write them down, they restore the wallet anywhere
("top-wallet import"), and whoever has them has the money. The key is sealed with
a passphrase under HOME/keys.`,
		Flags: append(tool.PassphraseFlags(),
			tool.Flag{Name: "words-file", Help: "write the words into this file, for you alone, and do not print them"}),
		Records:  []string{"wallet"},
		Examples: []string{"top-wallet new", "top-wallet new --passphrase-file pass --words-file words"},
		Run: func(_ context.Context, c *tool.Call) error {
			var entropy [32]byte
			if _, err := io.ReadFull(rand.Reader, entropy[:]); err != nil {
				return fmt.Errorf("draw words: %w", err)
			}
			words, err := keys.NewWords(entropy[:])
			if err != nil {
				return err
			}
			id, err := create(c, words)
			if err != nil {
				return err
			}
			if f := c.String("words-file"); f != "" {
				if err := home.WriteFile(f, []byte(words+"\n"), 0o600); err != nil {
					return err
				}
				return c.Emit(newRecord{id, ""}, "address  %s\nwords    in %s: keep them where nobody else looks", id.Address, f)
			}
			return c.Emit(newRecord{id, words}, "address  %s\nwords    %s\nWrite the words down: they are the wallet.", id.Address, words)
		},
	}
}

// create asks for the passphrase and makes the wallet.
func create(c *tool.Call, words string) (id wallet.Identity, err error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return id, err
	}
	if _, err := wallet.Load(dir); err == nil {
		return id, top.Errorf(top.Busy, "%s holds a wallet already (use another --home)", dir)
	}
	pass, err := c.Passphrase("passphrase for the new wallet", home.ReadSecret)
	if err != nil {
		return id, err
	}
	return wallet.Create(dir, words, pass, rand.Reader)
}

func importVerb() tool.Verb {
	return tool.Verb{
		Name: "import", Summary: "make the wallet of words, or of an exported key, on this machine",
		Doc: `The account's channels are found on the chain ("top-wallet channels") and can be
closed from here. The words come from a file, a descriptor or the terminal.`,
		Flags: append(append(tool.PassphraseFlags(), tool.SecretFlags("words")...),
			tool.Flag{Name: "key", Help: "read a sealed key that top-wallet export wrote; the passphrase is its own"}),
		Records:  []string{"wallet"},
		Examples: []string{"top-wallet import", "top-wallet import --key account.key"},
		Run: func(_ context.Context, c *tool.Call) error {
			var id wallet.Identity
			var err error
			if c.Set("key") {
				id, err = importKey(c)
			} else {
				var words []byte
				if words, err = c.Secret("words", "words", home.ReadSecret); err == nil {
					id, err = create(c, string(words))
				}
			}
			if err != nil {
				return err
			}
			return c.Emit(newRecord{id, ""}, "address  %s\nnode     %s", id.Address, id.Node)
		},
	}
}

func importKey(c *tool.Call) (id wallet.Identity, err error) {
	sealed, err := home.ReadSecret(c.String("key"))
	if err != nil {
		return id, err
	}
	pass, err := c.Passphrase("passphrase of the key", home.ReadSecret)
	if err != nil {
		return id, err
	}
	words, err := wallet.Words(sealed, pass)
	if err != nil {
		return id, err
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return id, err
	}
	return wallet.Create(dir, words, pass, rand.Reader)
}

func exportVerb() tool.Verb {
	return tool.Verb{
		Name: "export", Summary: "write the sealed key, or with --words the words",
		Flags: append(tool.PassphraseFlags(),
			tool.Flag{Name: "words", Kind: tool.Bool, Help: "print the words: whoever sees them has the money"}),
		Binary:   true,
		Examples: []string{"top-wallet export -o account.key", "top-wallet export --words"},
		Run: func(_ context.Context, c *tool.Call) error {
			dir, err := daemon.Home(c)
			if err != nil {
				return err
			}
			data, err := wallet.Sealed(dir)
			if err != nil {
				return err
			}
			if c.Bool("words") {
				pass, err := c.Passphrase("passphrase", home.ReadSecret)
				if err != nil {
					return err
				}
				words, err := wallet.Words(data, pass)
				if err != nil {
					return err
				}
				data = []byte(words + "\n")
			}
			return c.Output(func(w io.Writer) error {
				_, err := w.Write(data)
				return err
			})
		},
	}
}

func addressVerb() tool.Verb {
	return tool.Verb{
		Name: "address", Summary: "print this wallet's address", Records: []string{"wallet"},
		Flags:    []tool.Flag{{Name: "node", Kind: tool.Bool, Help: "print the id of its node instead"}},
		Examples: []string{"top-wallet address", `top-wallet pay "$(TOP_HOME=~/bob top-wallet address)" 1`},
		Run: func(_ context.Context, c *tool.Call) error {
			id, err := self(c)
			if err != nil {
				return err
			}
			if c.Bool("node") {
				return c.Emit(id, "%s", id.Node)
			}
			return c.Emit(id, "%s", id.Address)
		},
	}
}

func signVerb() tool.Verb {
	return tool.Verb{
		Name: "sign", Summary: "sign a text or a file with the account's key",
		Doc: `Asks the agent, or with --passphrase-fd or --passphrase-file opens the key itself
and needs no daemon. What is signed is the content's SHA-256, in a domain of its
own: no text can be a payment.`,
		Args:     []tool.Arg{{Name: "FILE", Help: "what to sign; - or none is stdin", Optional: true}},
		Flags:    append(tool.PassphraseFlags(), sockFlag()),
		Records:  []string{"signature"},
		Examples: []string{"top-wallet sign contract.pdf --json > contract.sig"},
		Run: func(ctx context.Context, c *tool.Call) error {
			digest, err := digestOf(c, c.Arg(0))
			if err != nil {
				return err
			}
			var s api.MessageSignature
			if c.Set("passphrase-fd") || c.Set("passphrase-file") {
				s, err = signHere(c, digest)
			} else {
				var agent *api.Wallet
				if agent, err = dialAgent(c); err == nil {
					s, err = agent.SignMessage(ctx, digest)
				}
			}
			if err != nil {
				return err
			}
			line, err := pipe.Line(s)
			if err != nil {
				return err
			}
			return c.Emit(s, "%s", bytes.TrimSpace(line))
		},
	}
}

func signHere(c *tool.Call, digest top.ID) (s api.MessageSignature, err error) {
	dir, err := daemon.Home(c)
	if err != nil {
		return s, err
	}
	pass, err := c.Passphrase("passphrase", home.ReadSecret)
	if err != nil {
		return s, err
	}
	key, err := wallet.Unlock(dir, pass)
	if err != nil {
		return s, err
	}
	return wallet.SignMessage(key, digest)
}

func digestOf(c *tool.Call, name string) (d top.ID, err error) {
	f, err := c.Input(name)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, fmt.Errorf("read content: %w", err)
	}
	return top.ID(h.Sum(nil)), nil
}

func verifyVerb() tool.Verb {
	return tool.Verb{
		Name: "verify", Summary: "check a signature of a text or a file",
		Doc:  "Exit 0 when the signature is good, 1 when it is not. Needs no daemon.",
		Args: []tool.Arg{{Name: "FILE", Help: "the content; - or none is stdin", Optional: true}},
		Flags: []tool.Flag{
			{Name: "signature", Help: "file with the signature record that top-wallet sign printed"},
			{Name: "by", Help: "who must have signed: an address or a contact"},
		},
		Records:  []string{"signature"},
		Examples: []string{"top-wallet verify contract.pdf --signature contract.sig --by alice"},
		Run: func(_ context.Context, c *tool.Call) error {
			if !c.Set("signature") {
				return top.Errorf(top.Usage, "name the signature with --signature FILE")
			}
			raw, err := os.ReadFile(c.String("signature"))
			if errors.Is(err, os.ErrNotExist) {
				return top.Errorf(top.NotFound, "no file %s", c.String("signature"))
			}
			if err != nil {
				return fmt.Errorf("read signature: %w", err)
			}
			var s api.MessageSignature
			if err := json.Unmarshal(raw, &s); err != nil || s.Type != "signature" {
				return top.Errorf(top.Invalid, "%s holds no signature record", c.String("signature"))
			}
			digest, err := digestOf(c, c.Arg(0))
			if err != nil {
				return err
			}
			if err := wallet.VerifyMessage(s, digest); err != nil {
				return err
			}
			if by := c.String("by"); by != "" {
				want, err := daemon.Resolve(c, by)
				if err != nil {
					return err
				}
				if want != s.Address {
					return top.Errorf(top.Failed, "the signature is good, and it is by %s, not by %s", s.Address, by)
				}
			}
			return c.Emit(s, "good: signed by %s", s.Address)
		},
	}
}
