package main

import (
	"top/lib/api"
	"top/lib/daemon"
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
		DoctorFlags: []tool.Flag{sockFlag(), daemon.ChainFlag(), daemon.WalletFlag()},
	}
}

func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the VPN daemon's socket (default HOME/run/vpn.sock)"}
}

// dialVPN is a client of the VPN daemon.
func dialVPN(c *tool.Call) (*api.VPN, error) {
	s, err := daemon.Dial(c, "sock", "vpn", "top-vpn up, or top-vpn serve --provide")
	if err != nil {
		return nil, err
	}
	return api.NewVPN(s), nil
}
