package receipt

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"top/lib/top"
)

const recordType = "receipt"

// A Record is a receipt as a line of NDJSON (docs/records.md, "receipt"). All but
// Receipt is for people and jq: it says again what the bytes say.
type Record struct {
	Type    string        `json:"type"` // "receipt"
	Chain   top.ChainID   `json:"chain"`
	Channel top.ID        `json:"channel"`
	Session top.SessionID `json:"session"`
	Service string        `json:"service"`
	Payer   top.Address   `json:"payer"`
	Node    top.NodeID    `json:"node"`
	Units   top.Count     `json:"units"`
	Amount  top.Amount    `json:"amount"` // of the session, nano
	Price   top.Amount    `json:"price"`  // of a unit, nano
	Unit    string        `json:"unit"`
	Seq     top.Count     `json:"seq"` // of the voucher
	// Unverified is how many units are the node's own count.
	Unverified top.Count `json:"unverified,omitempty"`
	Receipt    string    `json:"receipt"` // base64url of Encode, without padding
}

// Record is the receipt as a line of NDJSON.
func (r Receipt) Record() Record {
	t := &r.Ticket
	return Record{
		Type: recordType, Chain: t.Chain, Channel: t.Channel, Session: t.Session, Service: t.Service,
		Payer: t.Payer, Node: t.Node, Units: top.Count(r.Units()), Amount: r.LogSum, Price: t.Price,
		Unit: t.Unit, Seq: top.Count(r.Claim.Voucher.Seq), Unverified: top.Count(r.Unverified), Receipt: base64.RawURLEncoding.EncodeToString(r.Encode()),
	}
}

// FromRecord is the receipt in a record's bytes. A record that shows anything
// else than its bytes say is refused, with the field's name (R5); a field that is
// missing shows its zero value. The receipt is not verified.
func FromRecord(rec Record) (Receipt, error) {
	if rec.Type != recordType {
		return Receipt{}, fmt.Errorf("record type %q: want %q: %w", rec.Type, recordType, top.ErrInvalid)
	}
	b, err := base64.RawURLEncoding.DecodeString(rec.Receipt)
	if err != nil {
		return Receipt{}, fmt.Errorf("receipt record: field receipt: %v: %w", err, top.ErrInvalid)
	}
	var r Receipt
	if err := r.Decode(b); err != nil {
		return Receipt{}, fmt.Errorf("receipt record: field receipt: %w", err)
	}
	want := r.Record()
	for _, f := range [...]struct {
		name string
		same bool
	}{
		{"chain", rec.Chain == want.Chain},
		{"channel", rec.Channel == want.Channel},
		{"session", rec.Session == want.Session},
		{"service", rec.Service == want.Service},
		{"payer", rec.Payer == want.Payer},
		{"node", rec.Node == want.Node},
		{"units", rec.Units == want.Units},
		{"amount", rec.Amount == want.Amount},
		{"price", rec.Price == want.Price},
		{"unit", rec.Unit == want.Unit},
		{"seq", rec.Seq == want.Seq},
		{"unverified", rec.Unverified == want.Unverified},
		{"receipt", rec.Receipt == want.Receipt}, // base64 of another form
	} {
		if !f.same {
			return Receipt{}, fmt.Errorf("receipt record of session %s: field %s is not what the receipt says: %w", want.Session, f.name, top.ErrInvalid)
		}
	}
	return r, nil
}

// fields are the names that a Record knows.
var fields = []string{"type", "chain", "channel", "session", "service", "payer", "node", "units", "amount", "price", "unit", "seq", "unverified", "receipt"}

// UnmarshalJSON skips unknown fields, as every reader does, but refuses a known
// one in other capitals: encoding/json would take it for the field, while another
// reader of the same line sees the field itself (R5).
func (rec *Record) UnmarshalJSON(b []byte) error {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return fmt.Errorf("receipt record: %v: %w", err, top.ErrInvalid)
	}
	for k := range keys {
		for _, name := range fields {
			if k != name && strings.EqualFold(k, name) {
				return fmt.Errorf("receipt record: field %q: want %q: %w", k, name, top.ErrInvalid)
			}
		}
	}
	type plain Record
	if err := json.Unmarshal(b, (*plain)(rec)); err != nil {
		return fmt.Errorf("receipt record: %v: %w", err, top.ErrInvalid)
	}
	return nil
}
