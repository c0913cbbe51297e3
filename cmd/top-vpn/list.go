package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
	"top/lib/vpn"
)

func statusVerb() tool.Verb {
	return tool.Verb{
		Name: "status", Summary: "say where the tunnel or the exit stands",
		Doc: `Of a tunnel: each hop with its endpoint, carriage, MTU, age of the handshake, time of an
answer, loss, throughput and what it was paid. Of an exit: the addresses to register, what
it serves, who pays and what is earned. What is wrong stands last, with the remedy.`,
		Flags:   []tool.Flag{{Name: "wait", Kind: tool.Bool, Help: "until it carries"}, sockFlag()},
		Records: []string{"vpn-status"}, Examples: []string{"top-vpn status --json", "top-vpn status --wait --timeout 30s"},
		Run: func(ctx context.Context, c *tool.Call) error {
			v, err := dialVPN(c)
			if err != nil {
				return err
			}
			s, err := v.Status(ctx)
			for c.Bool("wait") && ctx.Err() == nil && (err != nil || s.State != "up" && s.State != "serving") {
				select {
				case <-time.After(50 * time.Millisecond):
					if now, e := v.Status(ctx); ctx.Err() == nil {
						s, err = now, e
					}
				case <-ctx.Done():
				}
			}
			if ctx.Err() != nil {
				return waited(s, err)
			}
			if err != nil {
				if left, _ := vpn.KillSwitches(); len(left) > 0 {
					return top.Errorf(top.Offline, "%v; the kill switch of %s stands (lift it: top-vpn down --force)", err, strings.Join(left, ", "))
				}
				return err
			}
			return c.Emit(s, "%s", statusText(s))
		},
	}
}

// waited says what did not come in time.
func waited(s api.VPNStatus, err error) error {
	switch {
	case err != nil:
		return err
	case s.Problem != "":
		return top.Errorf(top.Timeout, "the tunnel is %s: %s", s.State, s.Problem)
	}
	return top.Errorf(top.Timeout, "the tunnel is %s", s.State)
}

func statusText(s api.VPNStatus) string {
	text := []string{fmt.Sprintf("%-9s %s", s.Role, s.State)}
	if s.AllowLoopback {
		text = append(text, "loopback  allowed: this is for tests")
	}
	for _, a := range s.Addrs {
		text = append(text, "address   "+a)
	}
	if s.Role == "exit" {
		text = append(text, fmt.Sprintf("class     %s; %s TOP for 64 KiB; %d sessions, %d strangers; earned %s TOP", s.Class, s.Price, s.Peers, s.Strangers, s.Earned))
	}
	if s.Socks != "" {
		text = append(text, "socks     "+s.Socks)
	}
	if s.Interface != "" {
		text = append(text, fmt.Sprintf("interface %s, kill switch %t", s.Interface, s.KillSwitch))
	}
	for _, a := range s.Spared {
		text = append(text, "spared    "+a+", which the chain daemon reaches beside the tunnel")
	}
	for i, h := range s.Hops {
		text = append(text,
			fmt.Sprintf("hop %d     %s %s %s by %s, %s", i+1, h.Name, h.Class, h.Endpoint, h.Carry, h.Path),
			fmt.Sprintf("          MTU %d, handshake %s ms ago, %.1f ms, loss %.2f %%, up %s and down %s kbit/s", h.MTU, h.HandshakeMs, float64(h.RTTMicros)/1000, float64(h.LossPpm)/10_000, h.UpKbps, h.DownKbps),
			fmt.Sprintf("          %s; paid %s TOP in this session, on channel %s of %s TOP", h.State, h.Paid, h.Channel.Short(), h.Cap))
	}
	if s.Shows != "" {
		text = append(text, "note      "+s.Shows)
	}
	if s.Problem != "" {
		text = append(text, "problem   "+s.Problem)
	}
	return strings.Join(text, "\n")
}

func exitsVerb() tool.Verb {
	return tool.Verb{
		Name: "exits", Summary: "list the exits of the registry: price, region, time of an answer, score, class",
		Doc: `One line for each way to reach an exit: plain WireGuard, QUIC, websocket (up --carry).
Every exit is asked through a fresh tunnel, for which it is not paid. The score is what
this home saw of it: 50 for a stranger, more for sessions that carried, less for those
that broke. Region and capacity are its operator's word.`,
		Flags: []tool.Flag{
			{Name: "no-look", Kind: tool.Bool, Help: "only what the registry says: nobody is asked"},
			{Name: "max-price", Kind: tool.Amount, Help: "TOP for 64 KiB, at most"}, daemon.ChainFlag(),
		},
		Records: []string{"exit"}, Examples: []string{"top-vpn exits", `top-vpn exits --json | grep '"region":"de"' | top-vpn up --socks 127.0.0.1:1080 --via -`},
		Run: func(ctx context.Context, c *tool.Call) error {
			dir, err := daemon.Home(c)
			if err != nil {
				return err
			}
			chain, err := daemon.Chain(c)
			if err != nil {
				return err
			}
			l := &vpn.Looker{Home: dir, Chain: chain, Now: time.Now}
			most, shown, least := c.Amount("max-price"), 0, top.MaxSupply
			err = l.Exits(ctx, !c.Bool("no-look"), func(e api.VPNExit) error {
				if least = min(least, e.Price); most > 0 && e.Price > most {
					return nil
				}
				shown++
				return c.Emit(e, "%s", e)
			})
			switch {
			case err != nil || shown > 0:
			case least < top.MaxSupply:
				c.Info("no exit asks %s TOP or less for 64 KiB (the cheapest: %s)", most, least)
			default:
				c.Info("no exit is registered on the chain yet (sell one: top-vpn serve --provide --help)")
			}
			return err
		},
	}
}

func meterVerb() tool.Verb {
	return tool.Verb{
		Name: "meter", Summary: "show what is counted, and what it comes to",
		Doc: `Prints the counters of every session, of the exit's or of the client's end, again every
second. Paid is what the client acknowledges: what it sent and the exit has, and answers
to what it asked for. What was not asked for, came twice or was lost is counted apart.`,
		Flags: []tool.Flag{
			{Name: "once", Kind: tool.Bool, Help: "print them once"},
			{Name: "every", Kind: tool.Duration, Help: "how often", Default: "1s"}, sockFlag(),
		},
		Records: []string{"vpn-meter"}, Examples: []string{"top-vpn meter --json", "top-vpn meter --once"},
		Run: func(ctx context.Context, c *tool.Call) error {
			v, err := dialVPN(c)
			if err != nil {
				return err
			}
			every := c.Duration("every")
			if c.Bool("once") {
				every = 0
			}
			return v.Meters(ctx, every, func(m api.VPNMeter) error { return c.Emit(m, "%s", m) })
		},
	}
}
