package main

import (
	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/tool"
	"top/lib/top"
)

func app() tool.App {
	return tool.App{
		Name:    "top-relay",
		Summary: "messages, sealed from end to end, kept for who is offline",
		Doc: `"top-relay serve" is the messaging agent of a user; with --provide it sells relaying
too. The other commands ask it on TOP_HOME/run/relay.sock. A message is addressed by
account and paid to the recipient's relay when the recipient has it. Wherever an
address is wanted, the name of a contact will do ("top-wallet contact add").`,
		Verbs: []tool.Verb{
			serveVerb(), sendVerb(), watchVerb(), getVerb(), historyVerb(), requestsVerb(),
			judgeVerb("allow", "allowed", "let somebody's messages into the inbox",
				"What waits in requests from them comes into the inbox."),
			judgeVerb("block", "blocked", "refuse somebody's messages",
				"What waits in requests from them is dropped, and what they send is refused."),
			peersVerb(), routesVerb(), statusVerb(),
		},
		Doctor:      doctor,
		DoctorFlags: []tool.Flag{sockFlag(), chainSockFlag(), walletSockFlag()},
	}
}

func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the messaging agent's socket (default HOME/run/relay.sock)"}
}

func chainSockFlag() tool.Flag {
	return tool.Flag{Name: "chain-sock", Help: "the chain daemon's socket (default HOME/run/chain.sock)"}
}

func walletSockFlag() tool.Flag {
	return tool.Flag{Name: "wallet-sock", Help: "the wallet agent's socket (default HOME/run/wallet.sock)"}
}

func homeOf(c *tool.Call) (home.Dir, error) { return home.Of(c.String("home"), c.Getenv) }

func dial(c *tool.Call, flag, name, start string) (*sock.Client, error) {
	if s := c.String(flag); s != "" {
		return sock.Dial(s, start), nil
	}
	dir, err := homeOf(c)
	if err != nil {
		return nil, err
	}
	path, err := dir.Sock(name)
	if err != nil {
		return nil, err
	}
	return sock.Dial(path, start), nil
}

// dialRelay is a client of the messaging agent.
func dialRelay(c *tool.Call) (*api.Relay, error) {
	s, err := dial(c, "sock", "relay", "top-relay serve")
	if err != nil {
		return nil, err
	}
	return api.NewRelay(s), nil
}

func dialChain(c *tool.Call) (*api.Chain, error) {
	s, err := dial(c, "chain-sock", "chain", "top-chain serve")
	if err != nil {
		return nil, err
	}
	return api.NewChain(s), nil
}

func dialWallet(c *tool.Call) (*api.Wallet, error) {
	s, err := dial(c, "wallet-sock", "wallet", "top-wallet agent")
	if err != nil {
		return nil, err
	}
	return api.NewWallet(s), nil
}

// resolve reads an address or a contact's name.
func resolve(c *tool.Call, s string) (top.Address, error) {
	dir, err := homeOf(c)
	if err != nil {
		return top.Address{}, err
	}
	return home.Resolve(dir, s)
}
