package relay

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/delivery"
	"top/lib/envelope"
	"top/lib/top"
	"top/lib/wire"
)

const (
	inlineBody = 48 << 10 // a longer body travels as a file
	maxLine    = inlineBody
	lineBatch  = 2048 // lines that are made durable together
	maxName    = 255
	syncEvery  = 8 // chunks of a spool
)

// The states of what is sent, in the order in which they come; the last three are
// ends as well as read.
const (
	queued    = "queued"
	placed    = "sent" // on its way to a relay; shown as queued
	stored    = "stored"
	delivered = "delivered"
	read      = "read"
	expired   = "expired"
	refused   = "refused"
	failed    = "failed"
)

// rank orders the states of a message that goes well.
var rank = map[string]int{queued: 0, placed: 0, stored: 1, delivered: 2, read: 3}

func isOver(state string) bool {
	return state == delivered || state == read || state == expired || state == refused || state == failed
}

// An outMessage is a message that we sent, as it is kept.
type outMessage struct {
	Seq      uint64
	ID       string
	To       top.Address
	Name     string `json:",omitempty"`
	Text     bool
	Size     uint64
	SHA      top.ID
	Sent     int64 // unix milliseconds
	Expiry   uint64
	MaxSpend top.Amount `json:",omitempty"`
	Body     []byte     `json:",omitempty"`
	File     *outFile   `json:",omitempty"`
	First    uint64     // its parcels
	Parcels  uint64
	State    string
	Since    int64
	Error    string     `json:",omitempty"`
	Failure  top.Kind   `json:",omitempty"` // of Error, in the state failed
	Node     top.NodeID `json:",omitzero"`
	Units    uint64
	Cost     top.Amount

	stored, delivered uint64 // parcels
}

// An outFile is a body that is sealed in chunks, in a file of the spool.
type outFile struct {
	ID     [16]byte
	Key    [32]byte
	Chunks uint32
}

// An outParcel is an envelope that we sent, or are about to.
type outParcel struct {
	Seq     uint64
	To      top.Address
	ID      top.ID
	Key     [32]byte
	Size    int
	Count   uint32
	First   uint64 // messages that it carries, or that it is a part of
	Last    uint64
	Chunk   int64 // of the file of First; -1 is a bundle
	Expiry  uint64
	State   string
	Since   int64
	Node    top.NodeID
	Channel top.ID
	From    top.Amount
	Upto    top.Amount
	Hold    uint32
	Tries   int
}

func (p *outParcel) place() delivery.Place {
	return delivery.Place{Recipient: p.To, From: p.From, To: p.Upto}
}

// A wish is what somebody asks to be sent.
type wish struct {
	id       string
	to       top.Address
	name     string
	hold     time.Duration
	maxSpend top.Amount
	lines    bool
}

var wishID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (w *wish) check() error {
	if w.id == "" {
		w.id = rand.Text()[:16]
	}
	switch {
	case !wishID.MatchString(w.id):
		return top.Errorf(top.Invalid, "id %q: want 1 to 64 of a-z, A-Z, 0-9, dot, dash and underscore", w.id)
	case w.to.IsZero():
		return top.Errorf(top.Invalid, "to whom?")
	case len(w.name) > maxName || !utf8.ValidString(w.name):
		return top.Errorf(top.Invalid, "a name of %d bytes, at most %d of UTF-8", len(w.name), maxName)
	case w.hold < 0 || w.hold > 366*24*time.Hour:
		return top.Errorf(top.Invalid, "hold %s: want up to a year", w.hold)
	}
	w.hold = cmp.Or(w.hold, 24*time.Hour)
	return nil
}

// accept takes a body, or lines of it, onto the disk (M1). The same id twice is one
// message: the answer is the first.
func (a *agent) accept(ctx context.Context, w wish, body io.Reader) (last uint64, err error) {
	if err := w.check(); err != nil {
		return 0, err
	}
	if seq, err := a.wished(w.id); err != nil || seq > 0 {
		return seq, err
	}
	if err := a.db.room(); err != nil {
		return 0, err
	}
	if _, err := a.lookup(ctx, w.to); err != nil && !retries(err) {
		return 0, err
	}
	if err := a.knows(w.to); err != nil {
		return 0, err
	}
	if w.lines {
		return a.acceptLines(w, body)
	}
	m := a.newMessage(w, w.id)
	head := make([]byte, inlineBody+1)
	n, err := io.ReadFull(body, head)
	switch {
	case err == nil:
		if err := a.spool(ctx, m, io.MultiReader(bytes.NewReader(head), body)); err != nil {
			return 0, err
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		m.inline(head[:n])
	default:
		return 0, fmt.Errorf("read the body: %w", err)
	}
	return a.queue([]*outMessage{m})
}

// retries says whether an error may pass by itself.
func retries(err error) bool {
	return isSaid(err) || errors.Is(err, top.ErrOffline) || errors.Is(err, top.ErrTimeout) || errors.Is(err, top.ErrBusy) || errors.Is(err, context.DeadlineExceeded)
}

func (a *agent) wished(id string) (uint64, error) {
	raw, err := get(a.db.db, key('j', []byte(id)))
	if err != nil || len(raw) != 8 {
		return 0, err
	}
	return number(raw), nil
}

// knows notes that whoever we write to is no stranger.
func (a *agent) knows(who top.Address) error {
	state, err := a.allows(who)
	if err != nil || state != "" {
		return err
	}
	return a.db.db.Set(key('a', who[:]), []byte(allowed), pebble.Sync)
}

func (a *agent) newMessage(w wish, id string) *outMessage {
	now := a.now()
	return &outMessage{
		ID: id, To: w.to, Name: w.name, Sent: now.UnixMilli(), Expiry: uint64(now.Add(w.hold).Unix()), MaxSpend: w.maxSpend,
		State: queued, Since: now.UnixMilli(),
	}
}

func (m *outMessage) inline(body []byte) {
	m.Body, m.Size, m.SHA = body, uint64(len(body)), sha256.Sum256(body)
	m.Text = m.Name == "" && utf8.Valid(body)
}

// acceptLines takes every line as a message; the last has the wish's own id.
func (a *agent) acceptLines(w wish, body io.Reader) (last uint64, err error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	var all []*outMessage
	n := 0
	for more := lines.Scan(); more; {
		line := bytes.Clone(lines.Bytes())
		n++
		more = lines.Scan()
		id := fmt.Sprintf("%s.%d", w.id, n)
		if !more && lines.Err() == nil {
			id = w.id
		}
		m := a.newMessage(w, id)
		m.inline(line)
		if all = append(all, m); len(all) == lineBatch || !more {
			if last, err = a.queue(all); err != nil {
				return 0, err
			}
			all = nil
		}
	}
	if err := lines.Err(); err != nil {
		return 0, top.Errorf(top.Invalid, "line %d: %v (a line is %d bytes at most; send it as a file)", n+1, err, maxLine)
	}
	if n == 0 {
		return 0, top.Errorf(top.Invalid, "there is no line to send")
	}
	return last, nil
}

// spool seals a long body in chunks into a file, and learns its length and digest.
func (a *agent) spool(ctx context.Context, m *outMessage, body io.Reader) (err error) {
	f := &outFile{}
	rand.Read(f.ID[:])
	rand.Read(f.Key[:])
	path := a.spoolPath(f)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	sum := sha256.New()
	buf := make([]byte, envelope.ChunkData)
	synced := make(chan error, 1)
	synced <- nil
	for {
		n, err := io.ReadFull(body, buf)
		if n > 0 {
			if f.Chunks%syncEvery == syncEvery-1 { // so that little is left for the end
				if err := <-synced; err != nil {
					return fmt.Errorf("spool: %w", err)
				}
				go func() { synced <- out.Sync() }()
			}
			if err := a.spoolChunk(f, out, sum, buf[:n]); err != nil {
				return err
			}
			m.Size += uint64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read the body: %w", err)
		}
	}
	sum.Sum(m.SHA[:0])
	m.File = f
	return errors.Join(<-synced, out.Sync())
}

func (a *agent) spoolChunk(f *outFile, out io.Writer, sum hash.Hash, data []byte) error {
	if f.Chunks%64 == 0 {
		if err := a.db.room(); err != nil {
			return err
		}
	}
	done := make(chan struct{})
	go func() {
		sum.Write(data)
		close(done)
	}()
	s := envelope.SealChunk(f.Key, f.ID, f.Chunks, data)
	<-done
	f.Chunks++
	if _, err := out.Write(s.Bytes); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

func (a *agent) spoolPath(f *outFile) string { return a.path("spool", hex.EncodeToString(f.ID[:])) }

// queue makes messages durable and hands them to the courier of their recipient.
func (a *agent) queue(all []*outMessage) (last uint64, err error) {
	b := a.db.db.NewBatch()
	defer b.Close()
	a.mu.Lock()
	for _, m := range all {
		a.seqs.Sent++
		m.Seq = a.seqs.Sent
		a.msgs[m.Seq] = m
	}
	err = save(b, key('#'), a.seqs)
	a.mu.Unlock()
	for _, m := range all {
		if err == nil {
			err = errors.Join(save(b, key('m', u64(m.Seq)), m), b.Set(key('u', u64(m.Seq)), nil, nil), b.Set(key('j', []byte(m.ID)), u64(m.Seq), nil))
		}
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	if err != nil {
		return 0, err
	}
	c := a.courier(all[0].To)
	c.add(all)
	a.changed()
	return all[len(all)-1].Seq, a.db.db.LogData(nil, pebble.Sync) // while it is sealed
}

func (m *outMessage) payload() []byte {
	var e wire.Encoder
	e.String(m.ID)
	e.String(m.Name)
	e.Bool(m.Text)
	e.Uint(m.Size)
	e.Raw(m.SHA[:])
	e.Bool(m.File != nil)
	if m.File == nil {
		e.Bytes(m.Body)
	} else {
		e.Raw(m.File.ID[:])
		e.Raw(m.File.Key[:])
		e.Uint(uint64(m.File.Chunks))
	}
	return e.Out()
}

// restore brings back what is not over yet.
func (a *agent) restore() error {
	err := each(a.db.db, key('u'), key('u'), func(k, _ []byte) (bool, error) {
		m := new(outMessage)
		ok, err := load(a.db.db, key('m', k[1:]), m)
		if ok {
			a.msgs[m.Seq] = m
		}
		return true, err
	})
	if err != nil {
		return err
	}
	for _, m := range a.msgs {
		for seq := m.First; seq < m.First+m.Parcels; seq++ {
			p := new(outParcel)
			ok, err := load(a.db.db, key('p', u64(seq)), p)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if rank[p.State] >= 1 {
				m.stored++
				m.Since = max(m.Since, p.Since)
			}
			if isOver(p.State) {
				m.delivered++
			} else {
				a.parcels[p.Seq] = p
			}
		}
		if m.Parcels > 0 && m.stored >= m.Parcels && rank[m.State] < rank[stored] {
			m.State = stored
		}
	}
	return nil
}

// restorePlaces tells the lanes of a link what lies on them.
func (a *agent) restorePlaces(l *link) {
	a.mu.Lock()
	all := make([]*outParcel, 0, len(a.parcels))
	for _, p := range a.parcels {
		if !p.Channel.IsZero() && p.Upto > 0 {
			all = append(all, p)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(all, func(x, y *outParcel) int { return cmp.Compare(x.From, y.From) })
	for _, n := range l.lanes {
		for _, p := range all {
			if p.Channel == n.channel {
				n.sender.Restore(p.place(), p.Expiry)
			}
		}
	}
}

// resume gives what is not over to the couriers.
func (a *agent) resume() {
	a.mu.Lock()
	var msgs []*outMessage
	var parcels []*outParcel
	for _, m := range a.msgs {
		if m.Parcels == 0 {
			msgs = append(msgs, m)
		}
	}
	for _, p := range a.parcels {
		if p.State == queued {
			parcels = append(parcels, p)
		}
	}
	a.mu.Unlock()
	slices.SortFunc(msgs, func(x, y *outMessage) int { return cmp.Compare(x.Seq, y.Seq) })
	slices.SortFunc(parcels, func(x, y *outParcel) int { return cmp.Compare(x.Seq, y.Seq) })
	for _, p := range parcels {
		a.courier(p.To).again([]*outParcel{p})
	}
	for _, m := range msgs {
		a.courier(m.To).add([]*outMessage{m})
	}
}

// message is one that we sent, from memory or disk; nil when there is none.
func (a *agent) message(seq uint64) (*outMessage, error) {
	a.mu.Lock()
	m := a.msgs[seq]
	if m != nil {
		c := *m
		m = &c
	}
	a.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m = new(outMessage)
	ok, err := load(a.db.db, key('m', u64(seq)), m)
	if err != nil || !ok {
		return nil, err
	}
	return m, nil
}
