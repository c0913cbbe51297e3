package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/api"
	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
)

const (
	intakeGroup  = 64       // envelopes that are made durable together
	intakeBytes  = 16 << 20 // or bytes of files
	maxRequests  = 1000     // messages of strangers that wait
	maxOfRequest = 32       // of one stranger
	stillness    = 20 * time.Millisecond
)

// An inMessage is a message that we received, as it is kept.
type inMessage struct {
	Seq      uint64
	ID       string
	From     top.Address
	Name     string `json:",omitempty"`
	Text     bool
	Size     uint64
	SHA      top.ID
	Body     []byte   `json:",omitempty"`
	File     [16]byte // zero when the body is here
	Sent     int64
	Received int64
	State    string // "new", "read", "request"
	Node     top.NodeID
	Channel  top.ID
	Envelope top.ID
}

// An intake takes what one relay hands over. Many envelopes become durable
// together; only then are they acknowledged (M1).
type intake struct {
	a     *agent
	l     *link
	s     *stream
	b     *pebble.Batch // indexed: it reads what it wrote
	n     int
	bytes int
	acks  map[top.ID]delivery.Reader
	skips []top.ID
	marks map[string]map[top.ID][]top.ID // refused, or delivered by another relay: by state and channel
	files map[*inFile]bool
	done  []*inFile
	look  *pebble.Iterator // the database as it was before the group
	names map[string]bool  // of the group's messages
	held  bool             // the lock

	later   chan error                 // a group that becomes durable while the next is read
	readers map[top.ID]delivery.Reader // of groups before
}

func (a *agent) newIntake(l *link, s *stream) *intake {
	return &intake{a: a, l: l, s: s, readers: map[top.ID]delivery.Reader{}}
}

// begin takes the lock for a group.
func (in *intake) begin() {
	if in.held {
		return
	}
	in.a.intake.Lock()
	in.held = true
	in.b = in.a.db.db.NewIndexedBatch()
	in.n, in.bytes, in.skips, in.done = 0, 0, nil, nil
	in.acks, in.files, in.names = map[top.ID]delivery.Reader{}, map[*inFile]bool{}, map[string]bool{}
	in.marks = map[string]map[top.ID][]top.ID{refused: {}, delivered: {}}
}

// take takes one envelope.
func (in *intake) take(ctx context.Context, body []byte) error {
	var e envelope.Envelope
	if err := e.Decode(body); err != nil {
		return err
	}
	h := &e.Header
	if h.Chain != in.a.d.chain || h.Recipient != in.a.d.address {
		return top.Errorf(top.Denied, "an envelope for %s", h.Recipient)
	}
	in.begin()
	r, err := in.reader(h.Channel)
	if err != nil {
		return err
	}
	place := delivery.Place{Recipient: h.Recipient, From: h.From, To: h.To}
	if h.To <= r.To { // the acknowledgement was lost
		in.acks[h.Channel] = r
		in.n++
		return in.full(ctx)
	}
	fresh, err := in.open(&e)
	switch {
	case errors.Is(err, errLater):
		return nil
	case errors.Is(err, errRefused):
		in.marks[refused][h.Channel] = append(in.marks[refused][h.Channel], h.ID)
	case err != nil:
		in.a.log.Warn("an envelope that does not open", "relay", in.l.node, "err", err)
		in.skips = append(in.skips, h.ID)
	case !fresh: // another relay delivered it: this one is not paid (M6), and the sender told
		in.marks[delivered][h.Channel] = append(in.marks[delivered][h.Channel], h.ID)
	default:
		r.Got(place, h.ID)
		in.acks[h.Channel] = r
	}
	in.n++
	in.bytes += len(e.Sealed)
	return in.full(ctx)
}

func (in *intake) full(ctx context.Context) error {
	if in.n >= intakeGroup || in.bytes >= intakeBytes {
		return in.flush(ctx)
	}
	return nil
}

func (in *intake) reader(channel top.ID) (r delivery.Reader, err error) {
	if r, ok := in.acks[channel]; ok {
		return r, nil
	}
	if r, ok := in.readers[channel]; ok {
		return r, nil
	}
	_, err = load(in.b, key('R', channel[:]), &r)
	return r, err
}

var (
	errLater   = errors.New("not now")
	errRefused = errors.New("refused")
)

// open opens an envelope and puts what is in it into the group. It says whether
// any of it is new.
func (in *intake) open(e *envelope.Envelope) (fresh bool, err error) {
	if _, _, ok := envelope.IsChunk(e.Sealed); ok {
		return in.chunk(e)
	}
	o, err := envelope.Open(uint64(in.a.now().Unix()), e.Sealed, envelope.Receiver{
		Chain: in.a.d.chain, Account: in.a.d.address, Device: in.a.d.device, Conversation: in.conversation, Prekey: in.prekey,
	})
	if err != nil {
		return false, err
	}
	if o.ID != e.Header.ID || e.Header.Count != uint32(len(o.Payloads)) {
		return false, top.Errorf(top.Denied, "the header speaks of another envelope")
	}
	if err := e.Header.Check(o.Key, e.MAC); err != nil {
		return false, err
	}
	if err := in.b.Set(key('c', o.Conversation.ID[:]), o.Conversation.Encode(), nil); err != nil {
		return false, err
	}
	if o.Opening && o.Prekey != 0 {
		if err := in.b.Delete(key('k', u64(o.Prekey)), nil); err != nil {
			return false, err
		}
	}
	state, err := in.a.allows(o.From.Account)
	if err != nil {
		return false, err
	}
	if state == blocked {
		return false, errRefused
	}
	for _, text := range o.Payloads {
		var p payload
		if err := p.decode(text); err != nil {
			return fresh, err
		}
		news, err := in.deliver(e, o, p, state == allowed)
		if err != nil {
			return fresh, err
		}
		fresh = fresh || news
	}
	return fresh, nil
}

func (in *intake) conversation(id [16]byte) (*envelope.Incoming, bool) {
	raw, err := get(in.b, key('c', id[:]))
	if err != nil || raw == nil {
		return nil, false
	}
	c := new(envelope.Incoming)
	return c, c.Decode(raw) == nil
}

func (in *intake) prekey(id uint64) (envelope.Secret, bool) {
	raw, err := get(in.b, key('k', u64(id)))
	return raw, err == nil && raw != nil
}

// deliver puts one message into the inbox, or among the requests, unless it is
// there: a sender's id is one message.
func (in *intake) deliver(e *envelope.Envelope, o envelope.Opened, p payload, known bool) (fresh bool, err error) {
	name := nameOf(p.id, o.From.Account)
	if seen, err := in.seen(name); err != nil || seen {
		return false, err
	}
	m := inMessage{
		ID: p.id, From: o.From.Account, Name: p.name, Text: p.text, Size: p.size, SHA: p.sha, Body: p.body, Sent: int64(o.Sent),
		Received: in.a.now().UnixMilli(), State: "new", Node: in.l.node, Channel: e.Header.Channel, Envelope: e.Header.ID,
	}
	if !known {
		if m.State = "request"; !in.a.mayAsk(in.b, m.From) {
			return false, errRefused
		}
	}
	in.names[string(name)] = true
	if err := in.b.Set(name, nil, nil); err != nil {
		return false, err
	}
	if p.file == nil {
		return true, in.a.enter(in.b, &m)
	}
	m.File = p.file.ID
	if raw, err := get(in.b, key('f', m.File[:])); err != nil || raw != nil {
		return raw == nil, err
	}
	f := &inFile{Message: m, Key: p.file.Key, Chunks: p.file.Chunks, Got: make([]byte, (p.file.Chunks+7)/8)}
	in.a.files[m.File] = f
	if !known {
		if err := in.a.enter(in.b, &f.Message); err != nil {
			return false, err
		}
	}
	return true, save(in.b, key('f', m.File[:]), f)
}

// nameOf is the key of a message by its id and who sent it: its box and number,
// or nothing while its file is on its way.
func nameOf(id string, from top.Address) []byte { return key('n', []byte(id), []byte{0}, from[:]) }

// seen says whether a message of that name came before. Most did not: the filters
// of the database say so without a read.
func (in *intake) seen(name []byte) (bool, error) {
	if in.names[string(name)] {
		return true, nil
	}
	if in.look == nil {
		var err error
		if in.look, err = in.a.db.db.NewIter(&pebble.IterOptions{UseL6Filters: true}); err != nil {
			return false, fmt.Errorf("read: %w", err)
		}
	}
	return in.look.SeekPrefixGE(name), in.look.Error()
}

// mayAsk says whether a stranger may leave one more message.
func (a *agent) mayAsk(b *pebble.Batch, who top.Address) bool {
	all, his := 0, 0
	err := each(b, key('r'), key('r'), func(_, v []byte) (bool, error) {
		var m inMessage
		if err := unpack(bytes.Clone(v), &m); err != nil {
			return false, err
		}
		all++
		if m.From == who {
			his++
		}
		return all < maxRequests, nil
	})
	return err == nil && all < maxRequests && his < maxOfRequest
}

// enter gives a message its number in its box. The caller saves the numbers.
func (a *agent) enter(b *pebble.Batch, m *inMessage) error {
	a.mu.Lock()
	box := byte('i')
	if m.State == "request" {
		box = 'r'
		a.seqs.Request++
		m.Seq = a.seqs.Request
	} else {
		a.seqs.Inbox++
		m.Seq = a.seqs.Inbox
	}
	a.mu.Unlock()
	if err := b.Set(nameOf(m.ID, m.From), append([]byte{box}, u64(m.Seq)...), nil); err != nil {
		return err
	}
	return save(b, key(box, u64(m.Seq)), m)
}

// saveSeqs keeps the numbers given last.
func (a *agent) saveSeqs(b *pebble.Batch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return save(b, key('#'), a.seqs)
}

// say acknowledges what is durable, and refuses the rest.
func (in *intake) say(ctx context.Context, acks map[top.ID]delivery.Reader, skips []top.ID, marks map[string]map[top.ID][]top.ID) error {
	for channel, r := range acks {
		if r.Count == 0 {
			continue
		}
		ack, err := r.Ack(channel, in.a.d.cert, in.a.d.device.Signer())
		if err != nil {
			return err
		}
		if err := in.s.send(ctx, fAck, ack.Encode()); err != nil {
			return err
		}
	}
	if len(skips) > 0 {
		if err := in.s.send(ctx, fSkip, idList(skips)); err != nil {
			return err
		}
	}
	for state, of := range marks {
		for channel, ids := range of {
			m, err := in.a.deviceMark(state, channel, ids)
			if err != nil {
				return err
			}
			if err := in.s.send(ctx, fMark, m.encode()); err != nil {
				return err
			}
		}
	}
	return nil
}

// deviceMark is a mark signed by this device.
func (a *agent) deviceMark(state string, channel top.ID, ids []top.ID) (mark, error) {
	cert := a.d.cert
	m := mark{State: state, Channel: channel, IDs: ids, Time: uint64(a.now().UnixMilli()), Cert: &cert}
	return m, m.sign(a.d.chain, a.d.device.Signer())
}

// record is the message as others see it.
func (m *inMessage) record() api.Message {
	at := top.UnixMilli(m.Received)
	r := api.Message{
		Type: "message", Seq: top.Count(m.Seq), ID: m.ID, From: m.From, Name: m.Name, Kind: kindOf(m.Text), Size: top.Count(m.Size), SHA256: m.SHA,
		Sent: top.UnixMilli(m.Sent), Received: &at, State: m.State,
	}
	if m.Text {
		text := string(m.Body)
		r.Text = &text
	} else if m.File == ([16]byte{}) {
		r.Body = m.Body
	}
	return r
}
