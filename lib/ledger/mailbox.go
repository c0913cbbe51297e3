package ledger

import (
	"fmt"

	"top/lib/top"
)

func (s *State) mailbox(t *Tx, b *Mailbox) Result {
	c := &s.cold[t.From]
	if b.Seq <= c.mailSeq {
		return fail(fmt.Errorf("mailbox record %d: number %d is on the chain already: %w", b.Seq, c.mailSeq, top.ErrDenied))
	}
	c.mailbox, c.mailSeq = b.Digest, b.Seq
	return s.done()
}
