package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"top/lib/api"
	"top/lib/chain"
	"top/lib/daemon"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/tool"
	"top/lib/top"
)

func validatorKeyVerb() tool.Verb {
	return tool.Verb{
		Name: "validator-key", Summary: "let an account make this node its validator",
		Doc: `Prints this node's consent, signed by the key with which it votes. The owner's wallet
reads it: top-wallet validator. Nothing of the key itself is in it.`,
		Args:    []tool.Arg{{Name: "OWNER", Help: "an address, or the name of a contact"}},
		Records: []string{"validator-key"},
		Examples: []string{
			"top-chain validator-key top1… --json > consent.json",
			"top-chain validator-key alice --json | ssh office top-wallet validator - --stake 1000",
		},
		Run: func(_ context.Context, c *tool.Call) error {
			owner, err := addressArg(c, 0)
			if err != nil {
				return err
			}
			dir, err := daemon.Home(c)
			if err != nil {
				return err
			}
			g, err := genesisOf(dir)
			if err != nil {
				return err
			}
			v, err := chain.SignValidator(dir, owner, rand.Reader)
			if err != nil {
				return err
			}
			r := api.ValidatorKey{Type: "validator-key", Validator: v.ID, Chain: g.Chain, Owner: owner, Sig: v.Sig[:]}
			return c.Emit(r, "%s agrees to belong to %s\n(--json prints the record that top-wallet validator reads)", r.Validator, r.Owner)
		},
	}
}

func genesisOf(dir home.Dir) (*chain.Genesis, error) {
	raw, err := chain.LoadGenesis(dir)
	if err != nil {
		return nil, err
	}
	return chain.ParseGenesis(raw)
}

// stakeFlags are the flags of a new chain whose validators are elected.
func stakeFlags() []tool.Flag {
	return []tool.Flag{
		{Name: "stake", Kind: tool.Strings, Help: "new chain: elect validators by stake; ADDRESS=AMOUNT of TOP owns and backs the first, the next --stake the next, the last all others"},
		{Name: "rule", Kind: tool.Strings, Help: "new chain: NAME=VALUE of a parameter, as in epoch_blocks=50 (top-chain query params lists them); may repeat"},
	}
}

// setRules sets what --rule names.
func setRules(p *ledger.Params, list []string) error {
	for _, s := range list {
		name, text, ok := strings.Cut(s, "=")
		n, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil {
			return top.Errorf(top.Usage, "--rule %q: want NAME=VALUE, a whole number (amounts are nano)", s)
		}
		if name == "unbond_seconds" { // which no vote changes
			p.Stake.UnbondSeconds = n
		} else if *p, err = p.With(name, n); err != nil {
			return err
		}
	}
	return nil
}

// genesisStakes gives each validator an owner and a stake, which the accounts of the
// genesis then have.
func genesisStakes(list []string, g *ledger.Genesis, validators []home.Dir) error {
	owners, err := parseFunds(validators[0], list)
	if err != nil {
		return err
	}
	for i, v := range validators {
		o := owners[min(i, len(owners)-1)]
		key, err := chain.ConsensusKey(v, rand.Reader)
		if err != nil {
			return err
		}
		if o.Balance < top.One {
			return top.Errorf(top.Usage, "--stake %s: a validator begins with a whole TOP", o.Address)
		}
		g.Validators = append(g.Validators, ledger.GenesisValidator{ID: key, Owner: o.Address, Stake: o.Balance, Name: fmt.Sprintf("val%d", i)})
		g.Params.Stake.MinSelf = min(g.Params.Stake.MinSelf, o.Balance)
	}
	for _, o := range owners {
		if !hasAccount(g.Accounts, o.Address) {
			g.Accounts = append(g.Accounts, ledger.GenesisAccount{Address: o.Address})
		}
	}
	return nil
}

func hasAccount(all []ledger.GenesisAccount, a top.Address) bool {
	for _, g := range all {
		if g.Address == a {
			return true
		}
	}
	return false
}
