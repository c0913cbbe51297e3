package main

import (
	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/tool"
)

func app() tool.App {
	return tool.App{
		Name:    "top-vpn",
		Summary: "tunnels: sell an exit, or use one and pay for what you acknowledge",
		Doc: `"top-vpn serve --provide" sells an exit; "top-vpn up" uses one, as a proxy without root
or for the whole machine. Both are WireGuard. The client pays for what it sent and the
exit has, and for answers to what it asked for; nothing else is ever paid. The other
commands ask the daemon of their home on TOP_HOME/run/vpn.sock.`,
		Verbs:       []tool.Verb{serveVerb(), upVerb(), downVerb(), statusVerb(), exitsVerb(), meterVerb(), getVerb(), configVerb(), lendVerb()},
		Doctor:      doctor,
		DoctorFlags: []tool.Flag{sockFlag(), chainSockFlag(), walletSockFlag()},
	}
}

func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the VPN daemon's socket (default HOME/run/vpn.sock)"}
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

// dialVPN is a client of the VPN daemon.
func dialVPN(c *tool.Call) (*api.VPN, error) {
	s, err := dial(c, "sock", "vpn", "top-vpn up, or top-vpn serve --provide")
	if err != nil {
		return nil, err
	}
	return api.NewVPN(s), nil
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
