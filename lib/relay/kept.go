package relay

import (
	"top/lib/envelope"
	"top/lib/top"
	"top/lib/wire"
)

// A kept is a record that is written so often that its form counts: messages and
// parcels are many, everything else is JSON. In a profile of small messages JSON
// was a quarter of the time.
type kept interface {
	put(*wire.Encoder)
	get(*wire.Decoder)
}

const maxKept = 1 << 20

func (m *outMessage) put(e *wire.Encoder) {
	e.Uint(m.Seq)
	e.String(m.ID)
	e.Raw(m.To[:])
	e.String(m.Name)
	e.Bool(m.Text)
	e.Uint(m.Size)
	e.Raw(m.SHA[:])
	e.Uint(uint64(m.Sent))
	e.Uint(m.Expiry)
	e.Amount(m.MaxSpend)
	e.Bytes(m.Body)
	e.Bool(m.File != nil)
	if m.File != nil {
		e.Raw(m.File.ID[:])
		e.Raw(m.File.Key[:])
		e.Uint(uint64(m.File.Chunks))
	}
	e.Uint(m.First)
	e.Uint(m.Parcels)
	e.String(m.State)
	e.Uint(uint64(m.Since))
	e.String(m.Error)
	e.String(string(m.Failure))
	e.Raw(m.Node[:])
	e.Uint(m.Units)
	e.Amount(m.Cost)
}

func (m *outMessage) get(d *wire.Decoder) {
	m.Seq, m.ID = d.Uint(), d.String(maxKept)
	d.Fill(m.To[:])
	m.Name, m.Text, m.Size, m.SHA = d.String(maxKept), d.Bool(), d.Uint(), d.ID()
	m.Sent, m.Expiry, m.MaxSpend, m.Body = int64(d.Uint()), d.Uint(), d.Amount(), d.Bytes(maxKept)
	if d.Bool() {
		m.File = new(outFile)
		d.Fill(m.File.ID[:])
		d.Fill(m.File.Key[:])
		m.File.Chunks = d.Uint32()
	}
	m.First, m.Parcels, m.State, m.Since = d.Uint(), d.Uint(), d.String(maxKept), int64(d.Uint())
	m.Error, m.Failure = d.String(maxKept), top.Kind(d.String(maxKept))
	d.Fill(m.Node[:])
	m.Units, m.Cost = d.Uint(), d.Amount()
}

func (p *outParcel) put(e *wire.Encoder) {
	e.Uint(p.Seq)
	e.Raw(p.To[:])
	e.Raw(p.ID[:])
	e.Raw(p.Key[:])
	e.Uint(uint64(p.Size))
	e.Uint(uint64(p.Count))
	e.Uint(p.First)
	e.Uint(p.Last)
	e.Uint(uint64(p.Chunk + 1))
	e.Uint(p.Expiry)
	e.String(p.State)
	e.Uint(uint64(p.Since))
	e.Raw(p.Node[:])
	e.Raw(p.Channel[:])
	e.Amount(p.From)
	e.Amount(p.Upto)
	e.Uint(uint64(p.Hold))
	e.Uint(uint64(p.Tries))
}

func (p *outParcel) get(d *wire.Decoder) {
	p.Seq = d.Uint()
	d.Fill(p.To[:])
	p.ID = d.ID()
	d.Fill(p.Key[:])
	p.Size, p.Count = int(d.Uint()), d.Uint32()
	p.First, p.Last, p.Chunk, p.Expiry = d.Uint(), d.Uint(), int64(d.Uint())-1, d.Uint()
	p.State, p.Since = d.String(maxKept), int64(d.Uint())
	d.Fill(p.Node[:])
	p.Channel = d.ID()
	p.From, p.Upto, p.Hold, p.Tries = d.Amount(), d.Amount(), d.Uint32(), int(d.Uint())
}

func (m *inMessage) put(e *wire.Encoder) {
	e.Uint(m.Seq)
	e.String(m.ID)
	e.Raw(m.From[:])
	e.String(m.Name)
	e.Bool(m.Text)
	e.Uint(m.Size)
	e.Raw(m.SHA[:])
	e.Bytes(m.Body)
	e.Raw(m.File[:])
	e.Uint(uint64(m.Sent))
	e.Uint(uint64(m.Received))
	e.String(m.State)
	e.Raw(m.Node[:])
	e.Raw(m.Channel[:])
	e.Raw(m.Envelope[:])
}

func (m *inMessage) get(d *wire.Decoder) {
	m.Seq, m.ID = d.Uint(), d.String(maxKept)
	d.Fill(m.From[:])
	m.Name, m.Text, m.Size, m.SHA, m.Body = d.String(maxKept), d.Bool(), d.Uint(), d.ID(), d.Bytes(maxKept)
	d.Fill(m.File[:])
	m.Sent, m.Received, m.State = int64(d.Uint()), int64(d.Uint()), d.String(maxKept)
	d.Fill(m.Node[:])
	m.Channel, m.Envelope = d.ID(), d.ID()
}

// pack is the bytes of a record, and unpack reads them; it keeps none of them but
// bodies.
func pack(v kept) []byte {
	var e wire.Encoder
	v.put(&e)
	return e.Out()
}

func unpack(b []byte, v kept) error {
	d := wire.Decode(b, maxKept+envelope.MaxSealed)
	v.get(d)
	return d.End()
}
