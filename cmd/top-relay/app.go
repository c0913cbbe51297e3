package main

import (
	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
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
		DoctorFlags: []tool.Flag{sockFlag(), daemon.ChainFlag(), daemon.WalletFlag()},
	}
}

func sockFlag() tool.Flag {
	return tool.Flag{Name: "sock", Help: "the messaging agent's socket (default HOME/run/relay.sock)"}
}

// dialRelay is a client of the messaging agent.
func dialRelay(c *tool.Call) (*api.Relay, error) {
	s, err := daemon.Dial(c, "sock", "relay", "top-relay serve")
	if err != nil {
		return nil, err
	}
	return api.NewRelay(s), nil
}
