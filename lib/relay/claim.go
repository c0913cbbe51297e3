package relay

import (
	"context"
	"time"

	"top/lib/delivery"
	"top/lib/settle"
	"top/lib/top"
)

const claimWait = 30 * time.Second // until a claim is final

// claims claims on the chain what channels owe, before their deadlines, until ctx
// ends. An operator who settles sooner is not in its way.
func (p *provider) claims(ctx context.Context) error {
	every := min(max(p.deadline/4, time.Second), time.Minute)
	s := settle.Settler{Chain: p.api, Node: p.node, Wait: claimWait}
	looked := map[top.ID]looked{}
	for pause(ctx, every) {
		if err := p.claimDue(ctx, s, looked); err != nil {
			p.log.Warn("claim", "err", err) // the next look tries again
		}
	}
	return nil
}

// looked is what is known of a channel on the chain.
type looked struct {
	paid top.Amount
	last time.Time // when it was claimed, or first seen
	gone bool
}

// claimDue looks at every channel that owes more than was paid.
func (p *provider) claimDue(ctx context.Context, s settle.Settler, known map[top.ID]looked) error {
	return each(p.db.db, key('C'), key('C'), func(k, _ []byte) (bool, error) {
		id := top.ID(k[1:])
		at, seen := known[id]
		if !seen {
			at.last = p.now()
		}
		defer func() { known[id] = at }()
		var st carryState
		if ok, err := load(p.db.db, append([]byte{}, k...), &st); err != nil || !ok || at.gone || st.State.Owed <= at.paid {
			return err == nil, err
		}
		row, err := p.api.Channel(ctx, id)
		if err != nil {
			return false, err
		}
		at.paid, at.gone = row.Paid, !row.Exists
		if !settle.Due(row, st.State.Owed, at.last, p.now(), p.deadline) {
			return ctx.Err() == nil, nil
		}
		c, err := delivery.NewCarrier(st.Config, st.State)
		if err != nil {
			return false, err
		}
		got, err := s.Claim(ctx, c.Claim())
		if err != nil {
			p.log.Warn("claim", "channel", id.Short(), "err", err)
			return ctx.Err() == nil, nil
		}
		p.log.Info("claimed", "channel", id.Short(), "paid", got.Paid, "total", got.Total)
		at.paid, at.last = got.Total, p.now()
		return true, nil
	})
}
