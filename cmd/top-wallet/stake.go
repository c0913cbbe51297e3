package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/ledger"
	"top/lib/tool"
	"top/lib/top"
)

const validatorHelp = "a validator's id, topval1… (top-chain query validators lists them)"

// stakeSpend is a verb that makes one transaction about stakes.
func stakeSpend(v tool.Verb, wish func(*tool.Call) (api.Spend, error), flags ...tool.Flag) tool.Verb {
	v.Flags = append(spendFlags(flags...), daemon.ChainFlag())
	v.Records = []string{"payment", "signed-tx"}
	v.Run = func(ctx context.Context, c *tool.Call) error {
		q, err := wish(c)
		if err != nil {
			return err
		}
		return spend(ctx, c, q)
	}
	return v
}

// partArg reads operand i as TOP; "all" is 0.
func partArg(c *tool.Call, i int) (top.Amount, error) {
	if c.Arg(i) == "all" {
		return 0, nil
	}
	return amountArg(c, i)
}

func delegateVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "delegate", Summary: "put coins behind a validator",
		Doc: `They elect it, earn the yearly yield of its stake less its commission, by
themselves, and lose with it what penalties take. At least 1 TOP.`,
		Args:     []tool.Arg{{Name: "VALIDATOR", Help: validatorHelp}, {Name: "AMOUNT", Help: "TOP, at most 9 decimals"}},
		Examples: []string{"top-wallet delegate topval1… 100"},
	}, func(c *tool.Call) (api.Spend, error) {
		id, err := top.ParseValidatorID(c.Arg(0))
		if err != nil {
			return api.Spend{}, err
		}
		a, err := amountArg(c, 1)
		return api.Spend{Kind: "delegate", Amount: a, Stake: &api.StakeWish{Validator: id}}, err
	})
}

func undelegateVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "undelegate", Summary: "send delegated coins on their way back",
		Doc: `They arrive by themselves after the delay that "top-chain query params" shows, and
answer until then for what the validator did while they stood behind it. Less than
1 TOP does not stay behind.`,
		Args:     []tool.Arg{{Name: "VALIDATOR", Help: validatorHelp}, {Name: "AMOUNT", Help: "TOP, or all"}},
		Examples: []string{"top-wallet undelegate topval1… 50", "top-wallet undelegate topval1… all"},
	}, func(c *tool.Call) (api.Spend, error) {
		id, err := top.ParseValidatorID(c.Arg(0))
		if err != nil {
			return api.Spend{}, err
		}
		a, err := partArg(c, 1)
		return api.Spend{Kind: "undelegate", Amount: a, Stake: &api.StakeWish{Validator: id}}, err
	})
}

func redelegateVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "redelegate", Summary: "move delegated coins to another validator, at once",
		Doc: `They earn there from now on. Until they would have been back they answer for the
first validator too, and cannot be moved or taken out.`,
		Args: []tool.Arg{
			{Name: "FROM", Help: validatorHelp}, {Name: "TO", Help: "another"}, {Name: "AMOUNT", Help: "TOP, or all"},
		},
		Examples: []string{"top-wallet redelegate topval1… topval1… all"},
	}, func(c *tool.Call) (q api.Spend, err error) {
		q = api.Spend{Kind: "redelegate", Stake: &api.StakeWish{}}
		if q.Stake.Validator, err = top.ParseValidatorID(c.Arg(0)); err != nil {
			return q, err
		}
		if q.Stake.To, err = top.ParseValidatorID(c.Arg(1)); err != nil {
			return q, err
		}
		q.Amount, err = partArg(c, 2)
		return q, err
	})
}

func unjailVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "unjail", Summary: "let this account's validator stand for election again",
		Doc: `A validator that was down for too long is in jail. Once it runs again, and its time
there is over, this lets the next election take it.`,
		Args:     []tool.Arg{{Name: "VALIDATOR", Help: validatorHelp}},
		Examples: []string{"top-wallet unjail topval1…"},
	}, func(c *tool.Call) (api.Spend, error) {
		id, err := top.ParseValidatorID(c.Arg(0))
		return api.Spend{Kind: "unjail", Stake: &api.StakeWish{Validator: id}}, err
	})
}

func validatorVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "validator", Summary: "make a node a validator of this account, or change it",
		Doc: `FILE is what "top-chain validator-key" printed on the node's machine: its consent.
--stake is put behind it from this account; the chain wants a least own stake. On a
validator that is entered already this changes its name and its commission, which
rises by one percent an epoch at most, and adds to the stake.`,
		Args:     []tool.Arg{{Name: "FILE", Help: "a validator-key record, or - for standard input"}},
		Examples: []string{"top-chain validator-key alice --home /srv/node | top-wallet validator - --stake 1000 --name paris --commission 5"},
	}, readValidator,
		tool.Flag{Name: "stake", Kind: tool.Amount, Help: "own coins to put behind it, TOP"},
		tool.Flag{Name: "name", Help: "for people, at most 32 bytes"},
		tool.Flag{Name: "commission", Default: "0", Help: "of its delegators' yield, percent with at most 2 decimals"})
}

func readValidator(c *tool.Call) (q api.Spend, err error) {
	f, err := c.Input(c.Arg(0))
	if err != nil {
		return q, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return q, fmt.Errorf("read %s: %w", c.Arg(0), err)
	}
	var k api.ValidatorKey
	if err := json.Unmarshal(raw, &k); err != nil || k.Type != "validator-key" {
		return q, top.Errorf(top.Invalid, "%s holds no validator-key record (make one on the node: top-chain validator-key OWNER --json)", c.Arg(0))
	}
	me, err := self(c)
	if err != nil {
		return q, err
	}
	if k.Owner != me.Address {
		return q, top.Errorf(top.Denied, "the validator's key signed for %s, this account is %s", k.Owner, me.Address)
	}
	percent, err := strconv.ParseFloat(c.String("commission"), 64)
	hundredths := math.Round(percent * 100)
	if err != nil || hundredths < 0 || hundredths > 10_000 || math.Abs(percent*100-hundredths) > 1e-6 {
		return q, top.Errorf(top.Usage, "--commission %q: want percent, as in 5 or 2.25", c.String("commission"))
	}
	return api.Spend{Kind: "validator", Amount: c.Amount("stake"), Stake: &api.StakeWish{
		Validator: k.Validator, Sig: k.Sig, Name: c.String("name"), Commission: uint32(hundredths),
	}}, nil
}

func proposeVerb() tool.Verb {
	v := stakeSpend(tool.Verb{
		Name: "propose", Summary: "put a new value of a chain parameter to the vote",
		Doc: `The deposit that "top-chain query params" shows is held, and comes back when enough
of the stake votes, either way. With more than two thirds of the votes for it the
parameter changes when the vote ends. Amounts are nano. Parameters:
`,
		Args:     []tool.Arg{{Name: "NAME", Help: "of the parameter"}, {Name: "VALUE", Help: "a whole number"}},
		Examples: []string{"top-wallet propose fee_per_byte 20"},
	}, nil)
	for i, name := range ledger.Votable() {
		if i%4 == 0 {
			v.Doc += "\n "
		}
		v.Doc += " " + name
	}
	v.Run = func(ctx context.Context, c *tool.Call) error {
		value, err := strconv.ParseUint(c.Arg(1), 10, 64)
		if err != nil {
			return top.Errorf(top.Usage, "value %q: want a whole number (amounts are nano)", c.Arg(1))
		}
		chain, err := daemon.Chain(c)
		if err != nil {
			return err
		}
		p, err := chain.Params(ctx)
		if err != nil {
			return err
		}
		return spend(ctx, c, api.Spend{Kind: "propose", Amount: p.Deposit, Stake: &api.StakeWish{Name: c.Arg(0), Value: top.Count(value)}})
	}
	return v
}

func voteVerb() tool.Verb {
	return stakeSpend(tool.Verb{
		Name: "vote", Summary: "vote on a proposal with what is staked",
		Doc: `A vote weighs what this account has staked when the vote ends, and may be changed
until then. The owner of a validator votes for all its delegators who do not vote
themselves.`,
		Args:     []tool.Arg{{Name: "NUMBER", Help: "of the proposal (top-chain query proposals)"}, {Name: "CHOICE", Help: "yes or no"}},
		Examples: []string{"top-wallet vote 3 yes"},
	}, func(c *tool.Call) (api.Spend, error) {
		n, err := strconv.ParseUint(c.Arg(0), 10, 64)
		if err != nil || c.Arg(1) != "yes" && c.Arg(1) != "no" {
			return api.Spend{}, top.Errorf(top.Usage, "vote %q %q: want a number, and yes or no", c.Arg(0), c.Arg(1))
		}
		return api.Spend{Kind: "vote", Stake: &api.StakeWish{Number: top.Count(n), Yes: c.Arg(1) == "yes"}}, nil
	})
}

func stakeVerb() tool.Verb {
	return tool.Verb{
		Name: "stake", Summary: "what this account has staked, and what is on its way",
		Flags: []tool.Flag{daemon.ChainFlag()}, Records: []string{"stake"},
		Examples: []string{"top-wallet stake", "top-wallet stake --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			me, err := self(c)
			if err != nil {
				return err
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			return chain.Stakes(ctx, me.Address, func(r api.Stake) error { return c.Emit(r, "%s", r.Text()) })
		},
	}
}
