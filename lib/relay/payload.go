package relay

import (
	"crypto/sha256"
	"unicode/utf8"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/top"
	"top/lib/wire"
)

// payload is a message inside a bundle.
type payload struct {
	id   string
	name string
	text bool
	size uint64
	sha  top.ID
	body []byte
	file *outFile
}

func (p *payload) decode(b []byte) error {
	d := wire.Decode(b, envelope.MaxSealed)
	p.id, p.name, p.text, p.size = d.String(64), d.String(maxName), d.Bool(), d.Uint()
	p.sha = d.ID()
	if d.Bool() {
		p.file = new(outFile)
		d.Fill(p.file.ID[:])
		d.Fill(p.file.Key[:])
		p.file.Chunks = d.Uint32()
		if want := (p.size + envelope.ChunkData - 1) / envelope.ChunkData; d.Err() == nil && (uint64(p.file.Chunks) != want || p.size == 0) {
			d.Fail("a file of %d bytes in %d chunks", p.size, p.file.Chunks)
		}
	} else {
		p.body = append([]byte{}, d.Bytes(envelope.MaxSealed)...)
		if d.Err() == nil && (uint64(len(p.body)) != p.size || sha256.Sum256(p.body) != p.sha) {
			d.Fail("a body that is not what its message says")
		}
	}
	if d.Err() == nil && (!wishID.MatchString(p.id) || !utf8.ValidString(p.name) || p.text && !utf8.Valid(p.body)) {
		d.Fail("a message with id %q", p.id)
	}
	return d.End()
}

// record is the message as others see it.
func (m *outMessage) record() api.Message {
	r := api.Message{
		Type: "sent", Seq: top.Count(m.Seq), ID: m.ID, To: m.To, Name: m.Name, Kind: kindOf(m.Text), Size: top.Count(m.Size), SHA256: m.SHA,
		Sent: top.UnixMilli(m.Sent), State: m.State, Units: top.Count(m.Units), Cost: m.Cost, Error: m.Error, Failure: m.Failure,
	}
	if r.State == placed {
		r.State = queued
	}
	since, end := top.UnixMilli(m.Since), top.UnixMilli(int64(m.Expiry)*1000)
	r.Since, r.Expiry = &since, &end
	if !m.Node.IsZero() {
		r.Relay = &m.Node
	}
	if m.Text {
		text := string(m.Body)
		r.Text = &text
	}
	if m.Parcels > 0 && !isOver(m.State) {
		r.Done = top.Count(m.Size * m.stored / m.Parcels)
	}
	return r
}

func kindOf(text bool) string {
	if text {
		return "text"
	}
	return "file"
}
