package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"top/lib/api"
	"top/lib/billing"
	"top/lib/daemon"
	"top/lib/pipe"
	"top/lib/receipt"
	"top/lib/tool"
	"top/lib/top"
)

func billVerb() tool.Verb {
	return tool.Verb{
		Name: "bill", Summary: "what was spent and earned, by service, peer and session",
		Doc: `Works it out from receipts alone: those of HOME/receipts, or of --from. Every
signature and every hash is checked; a receipt that does not verify is left out
and counted. With a chain daemon it shows beside it what the chain paid. --from
needs no daemon and no wallet: anybody with the same receipts gets the same bill.

Of a tunnel that is up the payer has receipts some seconds after it carried something: what it
comes to just now says top-vpn meter. What top-vpn config prepaid is here once top-vpn lend ran.`,
		Flags: []tool.Flag{
			{Name: "from", Help: "receipts to read, NDJSON; - is stdin"},
			{Name: "follow", Short: "f", Kind: tool.Bool, Help: "go on as receipts come in"},
			{Name: "service", Help: "rows of this service only"},
			daemon.ChainFlag(),
		},
		Records:  []string{"bill-row", "bill-channel", "bill"},
		Examples: []string{"top-wallet bill", "top-wallet bill --follow --json", "top-wallet bill --from receipts.ndjson"},
		Run:      bill,
	}
}

// followPause is between looks at the receipts under --follow.
const followPause = 500 * time.Millisecond

func bill(ctx context.Context, c *tool.Call) error {
	view, err := viewpoint(c)
	if err != nil {
		return err
	}
	if c.Bool("follow") && c.String("from") == "-" {
		return top.Errorf(top.Usage, "--follow reads files, not stdin")
	}
	last := ""
	tick := time.NewTicker(followPause)
	defer tick.Stop()
	for {
		stamp := stampOf(c)
		if stamp != last {
			b, err := readBill(c, c.String("from"))
			if errors.Is(err, top.ErrNotFound) && !c.Set("from") {
				b, err = &receipts{bill: billing.New()}, nil
			}
			if err != nil {
				return err
			}
			if err := b.print(ctx, c, view); err != nil {
				return err
			}
			last = stamp
		}
		if !c.Bool("follow") {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// viewpoint is whose bill it is. With --from the wallet may be absent.
func viewpoint(c *tool.Call) (v billing.Viewpoint, err error) {
	me, err := self(c)
	if errors.Is(err, top.ErrNotFound) && c.Set("from") {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.Accounts, v.Nodes = []top.Address{me.Address}, []top.NodeID{me.Node}
	_, payers, err := payersHere(c)
	for _, p := range payers {
		v.Accounts = append(v.Accounts, p.Address)
	}
	return v, err
}

// receiptFiles is what a bill reads.
func receiptFiles(c *tool.Call, from string) ([]string, error) {
	if from != "" {
		return []string{from}, nil
	}
	dir, err := daemon.Home(c)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(dir.Path("receipts", "*.ndjson"))
	if err == nil && len(files) == 0 {
		err = top.Errorf(top.NotFound, "there are no receipts in %s yet", dir.Path("receipts"))
	}
	return files, err
}

// stampOf changes when the receipts do.
func stampOf(c *tool.Call) (stamp string) {
	files, _ := receiptFiles(c, c.String("from"))
	stamp = "-"
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			stamp += fmt.Sprintf("%s %d %d\n", f, st.Size(), st.ModTime().UnixNano())
		}
	}
	return stamp
}

// receipts is a bill and how it came about.
type receipts struct {
	bill    *billing.Bill
	good    int
	refused int
	why     error // of the first refused
}

// readBill reads and checks every receipt of a file, or of the home.
func readBill(c *tool.Call, from string) (*receipts, error) {
	files, err := receiptFiles(c, from)
	if err != nil {
		return nil, err
	}
	b := &receipts{bill: billing.New()}
	for _, f := range files {
		if err := b.read(c, f); err != nil {
			return nil, err
		}
	}
	if b.refused > 0 {
		c.Info("%d receipts do not verify and are left out; the first: %v", b.refused, b.why)
	}
	return b, nil
}

func (b *receipts) read(c *tool.Call, file string) error {
	in, err := c.Input(file)
	if err != nil {
		return err
	}
	defer in.Close()
	for r := pipe.NewReader(in); ; {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && rec.Type != "receipt" {
			continue
		}
		if err == nil {
			_, err = b.add(rec.Raw)
		}
		if err != nil {
			if !errors.Is(err, top.ErrInvalid) && !errors.Is(err, top.ErrDenied) && !errors.Is(err, top.ErrFailed) {
				return err
			}
			b.refused++
			b.why = cmp.Or(b.why, err)
			continue
		}
		b.good++
	}
}

// add checks one receipt and puts it on the bill.
func (b *receipts) add(raw json.RawMessage) (receipt.Receipt, error) {
	var rec receipt.Record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return receipt.Receipt{}, fmt.Errorf("receipt: %v: %w", err, top.ErrInvalid)
	}
	r, err := receipt.FromRecord(rec)
	if err != nil {
		return r, err
	}
	return r, b.bill.Add(r)
}

// print writes rows, channels and the total.
func (b *receipts) print(ctx context.Context, c *tool.Call, v billing.Viewpoint) error {
	paid := map[top.ID]top.Amount{}
	if !c.Set("from") {
		if err := b.onchain(ctx, c, paid); err != nil {
			c.Info("the chain was not asked: %v", err)
		}
	}
	payers, _, err := payersHere(c)
	if err != nil {
		return err
	}
	for _, r := range b.bill.Rows() {
		if s := c.String("service"); s != "" && r.Service != s {
			continue
		}
		rec := api.BillRow{
			Type: "bill-row", Kind: string(r.Kind), Side: string(v.Side(r)), Chain: r.Chain, Channel: r.Channel,
			Payer: r.Payer, Node: r.Node, Session: r.Session, Service: r.Service, Unit: r.Unit,
			Units: top.Count(r.Units), Price: r.Price, Amount: r.Amount, Unpaid: r.Unpaid, Unverified: top.Count(r.Unverified), PayerID: payers[r.Payer].ID,
		}
		if err := c.Emit(rec, "%s", rowText(rec, v.Peer(r))); err != nil {
			return err
		}
	}
	for _, ch := range b.bill.Channels() {
		side := v.Side(billing.Row{Payer: ch.Payer, Node: ch.Node})
		rec := api.BillChannel{Type: "bill-channel", Chain: ch.Chain, Channel: ch.Channel, Side: string(side), Owed: ch.Amount, PayerID: payers[ch.Payer].ID}
		text := fmt.Sprintf("channel %s  owed %s TOP", ch.Channel, ch.Amount)
		if p, ok := paid[ch.Channel]; ok {
			rec.Onchain = &p
			text += fmt.Sprintf(", paid by the chain %s", p)
		}
		if err := c.Emit(rec, "%s", text); err != nil {
			return err
		}
	}
	t, err := b.bill.Totals(v)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("total %s TOP  spent %s  earned %s  (%d receipts, %d refused)", t.Amount, t.Spent, t.Earned, b.good, b.refused)
	if t.Unverified > 0 {
		text += fmt.Sprintf("; unverified, by the node's own count: %s", t.Unverified)
	}
	return c.Emit(api.Bill{
		Type: "bill", Spent: t.Spent, Earned: t.Earned, Total: t.Amount, Receipts: b.good, Refused: b.refused, Unverified: t.Unverified,
	}, "%s", text)
}

func rowText(r api.BillRow, peer string) string {
	if r.Kind == string(billing.Unattributed) {
		return fmt.Sprintf("%-7s %-12s %s TOP without a receipt, channel %s", r.Side, "", r.Amount, r.Channel.Short())
	}
	s := fmt.Sprintf("%-7s %-12s %s x %s at %s = %s TOP  session %s with %s", r.Side, r.Service, r.Units, r.Unit, r.Price, r.Amount, r.Session, peer)
	if r.Unpaid > 0 {
		s += fmt.Sprintf(" (%s more logged and not paid)", r.Unpaid)
	}
	if r.Unverified > 0 {
		s += fmt.Sprintf(", unverified: %s of them are the node's own count", r.Unverified)
	}
	if r.PayerID != "" {
		s += ", by payer key " + r.PayerID
	}
	return s
}

// onchain asks what the chain has paid for each channel: of an open one, its row;
// of a closed one, the account's history.
func (b *receipts) onchain(ctx context.Context, c *tool.Call, paid map[top.ID]top.Amount) error {
	chain, err := daemon.Chain(c)
	if err != nil {
		return err
	}
	me, err := self(c)
	if err != nil {
		return err
	}
	payers, _, err := payersHere(c)
	if err != nil {
		return err
	}
	histories := []top.Address{me.Address} // where closed channels show
	closed := map[top.ID]bool{}
	for _, ch := range b.bill.Channels() {
		r, err := chain.Channel(ctx, ch.Channel)
		if err != nil {
			return err
		}
		if r.Exists {
			b.bill.Limit(ch.Chain, ch.Channel, r.Cap)
			paid[ch.Channel] = r.Paid
		} else {
			_, ours := payers[ch.Payer]
			closed[ch.Channel] = ours || ch.Payer == me.Address
			if ours {
				histories = append(histories, ch.Payer)
			}
		}
	}
	if len(closed) == 0 {
		return nil
	}
	for _, address := range histories {
		if err := paidBefore(ctx, chain, address, closed, paid); err != nil {
			return err
		}
	}
	return nil
}

// paidBefore adds up what closed channels paid, from the history of an account:
// closed says of each whether we were its payer.
func paidBefore(ctx context.Context, chain *api.Chain, address top.Address, closed map[top.ID]bool, paid map[top.ID]top.Amount) error {
	return chain.History(ctx, address, 0, 0, func(e api.Entry) error {
		if e.Channel == nil || !e.OK {
			return nil
		}
		payer, ours := closed[*e.Channel]
		if !ours {
			return nil
		}
		// A payer gave the cap and got the rest; a provider got each claim.
		switch {
		case e.Way == "out":
			paid[*e.Channel] += e.Amount
		case e.Way == "in" && payer:
			paid[*e.Channel] -= min(e.Amount, paid[*e.Channel])
		case e.Way == "in":
			paid[*e.Channel] += e.Amount
		}
		return nil
	})
}
