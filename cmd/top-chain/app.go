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

func homeOf(c *tool.Call) (home.Dir, error) { return home.Of(c.String("home"), c.Getenv) }

func sockOf(c *tool.Call) (string, error) {
	if s := c.String("sock"); s != "" {
		return s, nil
	}
	dir, err := homeOf(c)
	if err != nil {
		return "", err
	}
	return dir.Sock("chain")
}

// dial is a client of the daemon that --sock or --home names.
func dial(c *tool.Call) (*api.Chain, error) {
	path, err := sockOf(c)
	if err != nil {
		return nil, err
	}
	return api.NewChain(sock.Dial(path, "top-chain serve")), nil
}

// addressArg reads an operand that is an address or a contact's name.
func addressArg(c *tool.Call, i int) (top.Address, error) {
	dir, err := homeOf(c)
	if err != nil {
		return top.Address{}, err
	}
	return home.Resolve(dir, c.Arg(i))
}
