package relay

import (
	"fmt"

	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// maxMark is how many envelopes one mark speaks of.
const maxMark = 256

const markDomain = "top/mark/1"

// A mark is a signed word on the state of envelopes of one channel. A relay's node
// signs stored, expired and refused, a recipient's device read and refused.
type mark struct {
	State   string // "stored", "expired", "refused"; "delivered", "read", "refused"
	Channel top.ID
	IDs     []top.ID
	Time    uint64 // unix milliseconds
	Reason  string
	Cert    *keys.Certificate // of the device; nil when a node signed
	Node    top.NodeID
	Sig     [64]byte
}

func (m mark) body() []byte {
	var e wire.Encoder
	e.String(m.State)
	e.Raw(m.Channel[:])
	e.Uint(uint64(len(m.IDs)))
	for _, id := range m.IDs {
		e.Raw(id[:])
	}
	e.Uint(m.Time)
	e.String(m.Reason)
	return e.Out()
}

func (m mark) encode() []byte {
	var e wire.Encoder
	e.Raw(m.body())
	e.Bool(m.Cert != nil)
	if m.Cert != nil {
		m.Cert.Put(&e)
	} else {
		e.Raw(m.Node[:])
	}
	e.Raw(m.Sig[:])
	return e.Out()
}

func (m *mark) decode(b []byte) error {
	d := wire.Decode(b, maxMark*32+1024)
	m.State = d.String(16)
	m.Channel = d.ID()
	m.IDs = nil
	for range d.Count(maxMark, 32) {
		m.IDs = append(m.IDs, d.ID())
	}
	m.Time = d.Uint()
	m.Reason = d.String(128)
	m.Cert = nil
	if d.Bool() {
		m.Cert = new(keys.Certificate)
		m.Cert.Get(d)
	} else {
		d.Fill(m.Node[:])
	}
	d.Fill(m.Sig[:])
	return d.End()
}

// sign signs as the device of Cert, or as Node.
func (m *mark) sign(chain top.ChainID, s keys.Signer) (err error) {
	m.Sig, err = s.Sign(markDomain, chain, m.body())
	return err
}

// byNode checks that a node signed it.
func (m mark) byNode(chain top.ChainID, node top.NodeID) error {
	if m.Cert != nil || m.Node != node || !keys.Verify(node, markDomain, chain, m.body(), m.Sig) {
		return fmt.Errorf("mark %q is not signed by node %s: %w", m.State, node, top.ErrDenied)
	}
	return nil
}

// byDevice checks that a device of an account signed it.
func (m mark) byDevice(chain top.ChainID, now uint64) error {
	if m.Cert == nil {
		return fmt.Errorf("mark %q is not signed by a device: %w", m.State, top.ErrDenied)
	}
	if err := m.Cert.Verify(chain, "device", now); err != nil {
		return err
	}
	if !keys.Verify(m.Cert.Key, markDomain, chain, m.body(), m.Sig) {
		return fmt.Errorf("mark %q: wrong signature: %w", m.State, top.ErrDenied)
	}
	return nil
}
