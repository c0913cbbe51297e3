package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
)

func historyVerb() tool.Verb {
	return tool.Verb{
		Name: "history", Summary: "print what was sent and received, oldest first",
		Flags: []tool.Flag{
			{Name: "with", Help: "only with an address, or a contact"},
			{Name: "limit", Kind: tool.Int, Help: "only the newest so many; 0 is all"},
			{Name: "sent", Kind: tool.Bool, Help: "only what was sent"},
			{Name: "received", Kind: tool.Bool, Help: "only what was received"},
			sockFlag(),
		},
		Records: []string{"message", "sent"}, Examples: []string{"top-relay history --with bob --limit 20"},
		Run: history,
	}
}

func history(ctx context.Context, c *tool.Call) error {
	agent, err := dialRelay(c)
	if err != nil {
		return err
	}
	var with top.Address
	if s := c.String("with"); s != "" {
		if with, err = daemon.Resolve(c, s); err != nil {
			return err
		}
	}
	var all []api.Message
	for _, box := range []string{"inbox", "sent"} {
		if box == "inbox" && c.Bool("sent") || box == "sent" && c.Bool("received") {
			continue
		}
		err := agent.Messages(ctx, box, 0, false, func(m api.Message) error {
			if with.IsZero() || m.From == with || m.To == with {
				all = append(all, m)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(all, func(x, y api.Message) int { return cmp.Compare(x.Sent.UnixMilli(), y.Sent.UnixMilli()) })
	if n := c.Int("limit"); n > 0 && len(all) > n {
		all = all[len(all)-n:]
	}
	for _, m := range all {
		if err := c.Emit(m, "%s", m); err != nil {
			return err
		}
	}
	return nil
}

func requestsVerb() tool.Verb {
	return tool.Verb{
		Name: "requests", Summary: "list the strangers who wrote",
		Doc:   "What they wrote is shown by \"top-relay watch --requests --since 0\".",
		Flags: []tool.Flag{sockFlag()}, Records: []string{"correspondent"},
		Examples: []string{"top-relay requests", "top-relay allow top1…"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			return agent.Correspondents(ctx, func(p api.Correspondent) error {
				if p.State != "request" {
					return nil
				}
				return c.Emit(p, "%s  messages: %d, the last %s (top-relay allow|block %[1]s)", p.Address, p.Messages, p.Since)
			})
		},
	}
}

func judgeVerb(name, state, summary, doc string) tool.Verb {
	return tool.Verb{
		Name: name, Summary: summary, Doc: doc,
		Args:  []tool.Arg{{Name: "WHO", Help: "an address, or a contact's name"}},
		Flags: []tool.Flag{sockFlag()}, Records: []string{"correspondent"},
		Examples: []string{"top-relay " + name + " bob"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			who, err := daemon.Resolve(c, c.Arg(0))
			if err != nil {
				return err
			}
			p, err := agent.Judge(ctx, who, state)
			if err != nil {
				return err
			}
			return c.Emit(p, "%s is %s", p.Address, p.State)
		},
	}
}

func peersVerb() tool.Verb {
	return tool.Verb{
		Name: "peers", Summary: "list the peers that are connected",
		Flags: []tool.Flag{sockFlag()}, Records: []string{"peer"}, Examples: []string{"top-relay peers --json"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			return agent.Peers(ctx, func(p api.RelayPeer) error {
				return c.Emit(p, "%s  %s  %s", p.Peer, p.Direction, p.Addr)
			})
		},
	}
}

func routesVerb() tool.Verb {
	return tool.Verb{
		Name: "routes", Summary: "list the ways to somebody, in the order in which they are tried",
		Flags:   []tool.Flag{{Name: "to", Help: "an address, or a contact (default: all relays of the registry)"}, sockFlag()},
		Records: []string{"route"}, Examples: []string{"top-relay routes --to bob"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			var to top.Address
			if s := c.String("to"); s != "" {
				if to, err = daemon.Resolve(c, s); err != nil {
					return err
				}
			}
			return agent.Routes(ctx, to, func(r api.Route) error {
				state := "reachable in " + r.RTTMicros.String() + " us"
				if !r.Reachable {
					state = r.Error
				}
				return c.Emit(r, "%s  %s  %s TOP a unit  %s  %s", r.Node, r.Name, r.Price, r.Addr, state)
			})
		},
	}
}

func statusVerb() tool.Verb {
	return tool.Verb{
		Name: "status", Summary: "say where the messaging agent stands",
		Flags:   []tool.Flag{{Name: "wait", Kind: tool.Bool, Help: "until the mailbox is published: others can write to this account"}, sockFlag()},
		Records: []string{"relay-status"}, Examples: []string{"top-relay status --json", "top-relay status --wait --timeout 1m"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			s, err := agent.Status(ctx)
			for err == nil && c.Bool("wait") && !s.Published {
				select {
				case <-time.After(100 * time.Millisecond):
					s, err = agent.Status(ctx)
				case <-ctx.Done():
					return fmt.Errorf("%w: %s", ctx.Err(), s.Problem)
				}
			}
			if err != nil {
				return err
			}
			return c.Emit(s, "%s", statusText(s))
		},
	}
}

func statusText(s api.RelayStatus) string {
	text := []string{"address   " + s.Address.String(), "mailbox   record " + s.Mailbox.String(), "inbox     " + s.Inbox.String() + " messages"}
	for _, a := range s.Addrs {
		text = append(text, "reached   "+a)
	}
	for _, l := range s.Relays {
		state := "connected"
		if !l.Connected {
			state = "not connected: " + l.Error
		}
		text = append(text, "relay     "+l.Node.String()+" "+l.Name+" "+state)
	}
	if s.Held != nil {
		text = append(text, "holds     "+s.Held.Messages.String()+" envelopes, "+s.Held.Bytes.String()+" bytes; earned "+s.Held.Earned.String()+" TOP")
	}
	if s.Problem != "" {
		text = append(text, "problem   "+s.Problem)
	}
	return strings.Join(text, "\n")
}
