package wallet

import (
	"encoding/json"
	"errors"

	"top/lib/api"
	"top/lib/sock"
	"top/lib/top"
)

// maxBatchBody bounds the JSON of a batch: a million payments.
const maxBatchBody = 192 << 20

// routes is the table of wallet.sock (docs/contract.md, "Sockets"). What signs is
// for the owner alone, and so is what tells about the owner.
func (a *Agent) routes() []sock.Route {
	w := sock.Write
	return []sock.Route{
		{Method: "GET", Path: "/v1/status", Access: w, Handle: a.getStatus},
		{Method: "POST", Path: "/v1/payments", Access: w, Handle: a.postPayment},
		{Method: "GET", Path: "/v1/payments/{id}", Access: w, Handle: a.getPayment},
		{Method: "GET", Path: "/v1/batches", Access: w, Handle: a.getBatches},
		{Method: "POST", Path: "/v1/batches", Access: w, MaxBody: maxBatchBody, Handle: a.postBatch},
		{Method: "POST", Path: "/v1/batches/{id}/resume", Access: w, Handle: a.resumeBatch},
		{Method: "GET", Path: "/v1/budgets", Access: w, Handle: a.getBudgets},
		{Method: "POST", Path: "/v1/budgets", Access: w, Handle: a.postBudget},
		{Method: "POST", Path: "/v1/vouchers", Access: w, Handle: a.postVoucher},
		{Method: "POST", Path: "/v1/tickets", Access: w, Handle: a.postTicket},
		{Method: "POST", Path: "/v1/messages", Access: w, Handle: a.postMessage},
		{Method: "POST", Path: "/v1/certificates", Access: w, Handle: a.postCertificate},
		{Method: "POST", Path: "/v1/mailboxes", Access: w, Handle: a.postMailbox},
		{Method: "GET", Path: "/v1/payers", Access: w, Handle: a.getPayers},
		{Method: "POST", Path: "/v1/payers", Access: w, Handle: a.postPayer},
		{Method: "POST", Path: "/v1/payers/scan", Access: w, Handle: a.scanPayers},
		{Method: "POST", Path: "/v1/payers/{id}/close", Access: w, Handle: a.closePayer},
		{Method: "GET", Path: "/v1/signed", Access: w, Handle: a.getSigned},
	}
}

func (a *Agent) getStatus(c *sock.Call) error {
	r := api.WalletStatus{
		Type: "wallet-status", Address: a.address, Batches: []string{}, Version: top.Version,
		UptimeMs: top.Count(a.cfg.Now().Sub(a.start).Milliseconds()),
	}
	if p, err := a.chainParams(c.Context()); err == nil {
		r.Chain = p.Chain
	}
	a.record.mu.Lock()
	r.Signed, r.Head = top.Count(a.record.seq), a.record.head
	a.record.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.payments {
		if p.ended == nil && p.try != nil && !p.try.kept {
			r.Pending++
		}
	}
	for _, id := range a.order {
		if a.batches[id].unfinished() {
			r.Batches = append(r.Batches, id)
		}
	}
	return c.JSON(r)
}

func (a *Agent) postPayment(c *sock.Call) error {
	var q api.Spend
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.Spend(c.Context(), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (a *Agent) getPayment(c *sock.Call) error {
	id := c.Arg("id")
	a.mu.Lock()
	p, ok := a.payments[id]
	if !ok {
		a.mu.Unlock()
		return top.Errorf(top.NotFound, "no payment %q", id)
	}
	r := a.result(id, p.spend, p.try).Payment
	if p.ended != nil {
		r = *p.ended
	}
	a.mu.Unlock()
	return c.JSON(r)
}

func (a *Agent) getBatches(c *sock.Call) error {
	a.mu.Lock()
	var all []api.Batch
	for _, id := range a.order {
		all = append(all, a.batches[id].state())
	}
	a.mu.Unlock()
	return sock.Records(c, all)
}

func (a *Agent) postBatch(c *sock.Call) error {
	var q api.BatchRequest
	if err := c.Decode(&q); err != nil {
		return err
	}
	return a.Batch(c.Context(), q, c.Record)
}

func (a *Agent) resumeBatch(c *sock.Call) error {
	return a.ResumeBatch(c.Context(), c.Arg("id"), c.Record)
}

func (a *Agent) getBudgets(c *sock.Call) error { return sock.Records(c, a.budgets.list(a)) }

func (a *Agent) postBudget(c *sock.Call) error {
	var q api.Budget
	if err := c.Decode(&q); err != nil {
		return err
	}
	if err := a.budgets.set(q); err != nil {
		return err
	}
	q.Type = "budget"
	return c.JSON(q)
}

func (a *Agent) postVoucher(c *sock.Call) error {
	var q api.SignRequest
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.signVoucher(c.Context(), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (a *Agent) postTicket(c *sock.Call) error {
	var q api.SignRequest
	if err := c.Decode(&q); err != nil {
		return err
	}
	r, err := a.signTicket(c.Context(), q)
	if err != nil {
		return err
	}
	return c.JSON(r)
}

func (a *Agent) postMessage(c *sock.Call) error {
	var q struct {
		Digest top.ID `json:"digest"`
	}
	if err := c.Decode(&q); err != nil {
		return err
	}
	s, err := SignMessage(a.cfg.Key, q.Digest)
	if err != nil {
		return err
	}
	err = a.record.add(api.SignedEntry{Time: top.TimeOf(a.cfg.Now()), What: "message", Digest: q.Digest})
	if err != nil {
		return err
	}
	return c.JSON(s)
}

// getSigned streams the signing record as it is on disk.
func (a *Agent) getSigned(c *sock.Call) error {
	since, err := c.Count("since")
	if err != nil {
		return err
	}
	limit, err := c.Count("limit")
	if err != nil {
		return err
	}
	c.Begin()
	sent := uint64(0)
	stop := errors.New("enough")
	err = a.record.log.Each(func(line []byte) error {
		var e api.SignedEntry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		if uint64(e.Seq) <= since {
			return nil
		}
		if sent++; limit > 0 && sent > limit {
			return stop
		}
		return c.Record(e)
	})
	if errors.Is(err, stop) {
		return nil
	}
	return err
}
