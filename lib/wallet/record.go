package wallet

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/top"
	"top/lib/wire"
)

// recordDomain is of the signatures in the signing record. They belong to no
// chain.
const recordDomain = "top/signed/1"

// A record is the signing record: append-only, each entry naming the digest of
// the one before and signed by the account (W4).
type record struct {
	key keys.Private

	mu   sync.Mutex
	log  *home.Log
	seq  uint64
	head top.ID
	// what budgets need of it
	signed map[top.ID]signedVoucher // the last voucher of each channel
	recent []charge                 // in the order of time
}

// A signedVoucher is what the record says of a channel.
type signedVoucher struct {
	number  uint64
	digest  top.ID // of the voucher with that number
	exposed top.Amount
	service string
}

// A charge is money exposed for a service, at a time.
type charge struct {
	at      time.Time
	service string
	peer    top.NodeID
	amount  top.Amount
}

// openRecord reads and checks the whole record.
func openRecord(path string, key keys.Private) (*record, error) {
	log, err := home.OpenLog(path)
	if err != nil {
		return nil, err
	}
	r := &record{key: key, log: log, signed: map[top.ID]signedVoucher{}}
	err = log.Each(func(line []byte) error {
		var e api.SignedEntry
		if err := json.Unmarshal(line, &e); err != nil {
			return top.Errorf(top.Invalid, "%s: entry %d is damaged: %v", path, r.seq+1, err)
		}
		if err := CheckEntry(key.Public(), e, r.seq, r.head); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.take(e)
		return nil
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	return r, nil
}

// CheckEntry checks that an entry of a signing record follows the one before,
// whose number and digest are given, and that the account signed it.
func CheckEntry(account top.Address, e api.SignedEntry, seq uint64, before top.ID) error {
	if uint64(e.Seq) != seq+1 || e.Before != before {
		return top.Errorf(top.Failed, "signing record: entry %s does not follow entry %d", e.Seq, seq)
	}
	if len(e.Sig) != 64 || !keys.Verify(account, recordDomain, top.ChainID{}, entryBody(e), [64]byte(e.Sig)) {
		return top.Errorf(top.Failed, "signing record: entry %s is not signed by %s", e.Seq, account)
	}
	return nil
}

// entryBody is what an entry's signature covers (docs/wire.md, "Signing record").
func entryBody(e api.SignedEntry) []byte {
	var w wire.Encoder
	w.Uint(uint64(e.Seq))
	w.Uint(uint64(e.Time.UnixMilli()))
	w.String(e.What)
	w.String(e.Service)
	w.Bool(e.Peer != nil)
	if e.Peer != nil {
		w.Raw(e.Peer[:])
	}
	w.Bool(e.Channel != nil)
	if e.Channel != nil {
		w.Raw(e.Channel[:])
	}
	w.Uint(uint64(e.Number))
	w.Amount(e.Exposed)
	w.Amount(e.Charged)
	w.Raw(e.Digest[:])
	w.Raw(e.Before[:])
	return w.Out()
}

// EntryDigest is what the next entry names as Before.
func EntryDigest(e api.SignedEntry) top.ID { return wire.Digest(recordDomain, entryBody(e), e.Sig) }

// add signs an entry and puts it on disk. The caller holds r.mu.
func (r *record) addLocked(e api.SignedEntry) error {
	e.Type, e.Seq, e.Before = "signed", top.Count(r.seq+1), r.head
	sig, err := r.key.Signer().Sign(recordDomain, top.ChainID{}, entryBody(e))
	if err != nil {
		return err
	}
	e.Sig = sig[:]
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("signing record: %w", err)
	}
	if err := r.log.Append(line); err != nil {
		return err
	}
	if err := r.log.Sync(); err != nil {
		return err
	}
	r.take(e)
	return nil
}

// add is addLocked for what needs no check under the lock.
func (r *record) add(e api.SignedEntry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addLocked(e)
}

// take notes an entry that is on disk.
func (r *record) take(e api.SignedEntry) {
	r.seq, r.head = uint64(e.Seq), EntryDigest(e)
	if e.What != "voucher" || e.Channel == nil || e.Peer == nil {
		return
	}
	r.signed[*e.Channel] = signedVoucher{uint64(e.Number), e.Digest, e.Exposed, e.Service}
	if e.Charged > 0 {
		r.recent = append(r.recent, charge{e.Time.Time, e.Service, *e.Peer, e.Charged})
	}
}

// day is the span of a budget.
// isOther says whether a channel is known to pay for another service.
func (r *record) isOther(channel top.ID, service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.signed[channel]
	return ok && s.service != service
}

const day = 24 * time.Hour

// spentLocked is what was charged to a service in the day before now: in all,
// and for one peer.
func (r *record) spentLocked(now time.Time, service string, peer top.NodeID) (all, forPeer top.Amount) {
	for len(r.recent) > 0 && now.Sub(r.recent[0].at) >= day {
		r.recent = r.recent[1:]
	}
	for _, c := range r.recent {
		if c.service == service {
			all += c.amount
			if c.peer == peer {
				forPeer += c.amount
			}
		}
	}
	return all, forPeer
}
