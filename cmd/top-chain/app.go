package main

import (
	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
)

func app() tool.App {
	return tool.App{
		Name:    "top-chain",
		Summary: "run a node of the chain, and ask one",
		Doc: `Every machine runs some "top-chain serve": a validator, a full node, or a light
client that verifies headers and proofs and keeps no state. All three answer on
the same socket, TOP_HOME/run/chain.sock; the other commands ask there.`,
		Verbs: []tool.Verb{
			initVerb(), serveVerb(), statusVerb(), submitVerb(), queryVerb(), watchVerb(), localnetVerb(), validatorKeyVerb(), verifyVerb(), benchVerb(), driverVerb(),
		},
		Doctor:      doctor,
		DoctorFlags: []tool.Flag{sockFlag()},
	}
}

// sockFlag names the socket to ask.
func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the chain daemon's socket (default HOME/run/chain.sock)"}
}

// dial is a client of the daemon that --sock or --home names.
func dial(c *tool.Call) (*api.Chain, error) {
	s, err := daemon.Dial(c, "sock", "chain", "top-chain serve")
	if err != nil {
		return nil, err
	}
	return api.NewChain(s), nil
}

// addressArg reads an operand that is an address or a contact's name.
func addressArg(c *tool.Call, i int) (top.Address, error) { return daemon.Resolve(c, c.Arg(i)) }
