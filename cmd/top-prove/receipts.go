package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"top/lib/daemon"
	"top/lib/home"
	"top/lib/receipt"
	"top/lib/tool"
	"top/lib/top"
)

// followPause is between looks at the logs under --follow.
const followPause = 250 * time.Millisecond

func receiptsVerb() tool.Verb {
	return tool.Verb{
		Name: "receipts", Summary: "print the newest receipt of every session",
		Doc: `Reads HOME/receipts/*.ndjson, also while a daemon writes there: those that this node
earned and those that it paid. A newer receipt of a session says all that an older one does.`,
		Flags: []tool.Flag{
			{Name: "service", Help: "only of a service: relay, vpn, …"},
			{Name: "peer", Help: "only with a payer (top1…, or a contact) or a node (topnode1…)"},
			{Name: "channel", Help: "only on a channel"},
			{Name: "session", Help: "only of a session"},
			{Name: "all", Kind: tool.Bool, Help: "older ones too"},
			{Name: "follow", Short: "f", Kind: tool.Bool, Help: "go on as receipts come in"},
		},
		Records:  []string{"receipt"},
		Examples: []string{"top-prove receipts", "top-prove receipts --service relay --json | top-prove verify --json - | top-wallet settle --json -"},
		Run:      receipts,
	}
}

func receipts(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	want, err := filter(c, dir)
	if err != nil {
		return err
	}
	said := map[top.SessionID]receipt.Receipt{}
	for stamp := ""; ; {
		if now := stampOf(dir); now != stamp {
			stamp = now
			if err := say(c, dir, want, said); err != nil {
				return err
			}
		}
		if !c.Bool("follow") {
			return nil
		}
		select {
		case <-time.After(followPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stampOf changes when the logs do.
func stampOf(dir home.Dir) (stamp string) {
	files, _ := filepath.Glob(dir.Path("receipts", "*.ndjson"))
	stamp = "-"
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			stamp += fmt.Sprintf("%s %d\n", f, st.Size())
		}
	}
	return stamp
}

// say prints what is newer than what was said.
func say(c *tool.Call, dir home.Dir, want func(receipt.Record) bool, said map[top.SessionID]receipt.Receipt) error {
	newest, order := map[top.SessionID]line{}, []top.SessionID{}
	at := map[top.SessionID]receipt.Receipt{}
	all := c.Bool("all")
	err := logs(dir, func(l line) error {
		if !want(l.rec) {
			return nil
		}
		r, err := receipt.FromRecord(l.rec)
		if err != nil {
			return nil // verify names it
		}
		s := l.rec.Session
		if old, ok := said[s]; ok && r.Compare(old) <= 0 {
			return nil
		}
		if all {
			return emit(c, l, r)
		}
		if old, ok := at[s]; !ok || r.Compare(old) > 0 {
			if !ok {
				order = append(order, s)
			}
			at[s], newest[s] = r, l
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range order {
		if err := emit(c, newest[s], at[s]); err != nil {
			return err
		}
		said[s] = at[s]
	}
	return nil
}

func emit(c *tool.Call, l line, r receipt.Receipt) error {
	return c.Emit(l.raw, "%s  %s  %s x %s at %s = %s TOP  session %s", r.ID(), l.rec.Service, l.rec.Units, l.rec.Unit, l.rec.Price, l.rec.Amount, l.rec.Session)
}

// filter is what the flags ask for.
func filter(c *tool.Call, dir home.Dir) (func(receipt.Record) bool, error) {
	service, channel, session, peer := c.String("service"), c.String("channel"), c.String("session"), c.String("peer")
	var payer top.Address
	var node top.NodeID
	var err error
	switch {
	case strings.HasPrefix(peer, "topnode"):
		node, err = top.ParseNodeID(peer)
	case peer != "":
		payer, err = home.Resolve(dir, peer)
	}
	if err != nil {
		return nil, err
	}
	return func(r receipt.Record) bool {
		return (service == "" || r.Service == service) && (channel == "" || r.Channel.String() == channel) &&
			(session == "" || r.Session.String() == session) && (payer.IsZero() || r.Payer == payer) && (node.IsZero() || r.Node == node)
	}, nil
}
