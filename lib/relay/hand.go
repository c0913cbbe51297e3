package relay

import (
	"context"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
)

// maxAhead is how many envelopes beyond the first that a device lacks are looked
// at, while the window of some channel is full.
const maxAhead = 1024

// A hand is a device of a recipient that is connected.
type hand struct {
	box    *box
	device [32]byte
	stream *stream
	out    map[uint64]flight // handed over, not acknowledged
	more   chan struct{}
}

// A flight is an envelope that was handed over.
type flight struct {
	channel top.ID
	id      top.ID
	place   delivery.Place
}

func (h *hand) wake() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// attach begins to hand envelopes to a device; an older connection of it ends.
func (p *provider) attach(s *stream, account top.Address, device [32]byte) (*hand, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.box(account)
	if err != nil {
		return nil, err
	}
	if b == nil || !b.lists(device) {
		return nil, top.Errorf(top.NotFound, "the mailbox record held here does not name this device (publish it first)")
	}
	if old := b.hands[device]; old != nil {
		old.stream.close(top.Errorf(top.Busy, "the device connected again"))
	}
	h := &hand{box: b, device: device, stream: s, out: map[uint64]flight{}, more: make(chan struct{}, 1)}
	b.hands[device] = h
	h.wake()
	return h, nil
}

func (b *box) lists(device [32]byte) bool {
	for _, d := range b.mailbox.Devices {
		if d.Cert.Key == device {
			return true
		}
	}
	return false
}

func (p *provider) detach(h *hand) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.box.hands[h.device] == h {
		delete(h.box.hands, h.device)
	}
	if len(h.box.hands) == 0 {
		for _, m := range h.box.fresh {
			h.box.release(m)
		}
	}
}

// run hands over, in order, what the device lacks, as far as each channel's window
// allows.
func (h *hand) run(ctx context.Context, p *provider) error {
	for {
		m, err := p.nextFor(h)
		if err != nil {
			return err
		}
		if m == nil {
			select {
			case <-h.more:
				continue
			case <-h.stream.done:
				return nil
			case <-ctx.Done():
				return nil
			}
		}
		if m.sealed == nil {
			body, err := p.db.blob(m.blobName())
			if err != nil {
				continue // it was dropped meanwhile
			}
			m = &parcel{head: m.head, mac: m.mac, sealed: body}
		}
		e := envelope.Envelope{Header: m.head, MAC: m.mac, Sealed: m.sealed}
		if err := h.stream.sendBody(ctx, fHand, e.Head(), e.Sealed); err != nil {
			return nil
		}
	}
}

// nextFor is the next envelope for a device; nil when there is none now.
func (p *provider) nextFor(h *hand) (*parcel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := h.box
	now := uint64(p.now().Unix())
	full := map[top.ID]bool{}
	for seq, looked := b.cursor(h.device)+1, 0; seq < b.state.Next && looked < maxAhead; seq++ {
		if _, ok := h.out[seq]; ok || !b.lacks(h.device, seq) {
			continue
		}
		m, err := b.parcel(p.db, seq)
		if err != nil {
			return nil, err
		}
		if m == nil || m.head.Expiry <= now {
			if m == nil {
				b.has(h.device, seq)
			}
			continue
		}
		looked++
		if full[m.head.Channel] {
			continue
		}
		c, err := p.carry(m.head.Channel)
		if err != nil || c == nil {
			return nil, err
		}
		if !c.c.Hand(m.place()) {
			full[m.head.Channel] = true
			continue
		}
		h.out[seq] = flight{m.head.Channel, m.head.ID, m.place()}
		return m, nil
	}
	return nil, nil
}
