// Package daemon is the daemons of a home, as a command asks them: the flags that
// name their sockets, their clients, and what doctor says of them.
//
// It holds no daemon, and no verb.
//
//	DM1  a socket is the one that a flag names, else that of --home, else of TOP_HOME
//	DM2  a finding that is not well names what mends it
package daemon

import (
	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/tool"
	"top/lib/top"
)

// ChainFlag is the flag that Chain reads.
func ChainFlag() tool.Flag {
	return tool.Flag{Name: "chain-sock", Help: "the chain daemon's socket (default HOME/run/chain.sock)"}
}

// WalletFlag is the flag that Wallet reads.
func WalletFlag() tool.Flag {
	return tool.Flag{Name: "wallet-sock", Help: "the wallet agent's socket (default HOME/run/wallet.sock)"}
}

// Home is the home of a call: --home, else TOP_HOME, else ~/.top.
func Home(c *tool.Call) (home.Dir, error) { return home.Of(c.String("home"), c.Getenv) }

// Resolve reads an address or the name of a contact of the call's home.
func Resolve(c *tool.Call, s string) (top.Address, error) {
	dir, err := Home(c)
	if err != nil {
		return top.Address{}, err
	}
	return home.Resolve(dir, s)
}

// Dial is a client of the daemon whose socket a flag of the verb names, else
// run/NAME.sock of the call's home (DM1). Nothing is asked yet; start is the command
// that an error names when nothing answers.
func Dial(c *tool.Call, flag, name, start string) (*sock.Client, error) {
	path := c.String(flag)
	if path == "" {
		dir, err := Home(c)
		if err != nil {
			return nil, err
		}
		if path, err = dir.Sock(name); err != nil {
			return nil, err
		}
	}
	return sock.Dial(path, start), nil
}

// Chain is a client of the chain daemon, for verbs with ChainFlag.
func Chain(c *tool.Call) (*api.Chain, error) {
	s, err := Dial(c, ChainFlag().Name, "chain", "top-chain serve")
	if err != nil {
		return nil, err
	}
	return api.NewChain(s), nil
}

// Wallet is a client of the wallet agent, for verbs with WalletFlag.
func Wallet(c *tool.Call) (*api.Wallet, error) {
	s, err := Dial(c, WalletFlag().Name, "wallet", "top-wallet agent")
	if err != nil {
		return nil, err
	}
	return api.NewWallet(s), nil
}
