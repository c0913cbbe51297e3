package ledger

import (
	"crypto/sha256"
	"fmt"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wire"
)

// MaxTx is the longest transaction, in bytes.
const MaxTx = 1 << 20

const txDomain = "top/tx/1"

// Kind says what a transaction does. Only ever append.
type Kind uint8

// The kinds.
const (
	KindTransfer Kind = 1 + iota
	KindBatch
	KindLock
	KindUnlock
	KindRegister
	KindUnregister
	KindOpen
	KindClaim
	KindClose
	KindReclaim
	KindMailbox
	KindValidator
	KindDelegate
	KindUndelegate
	KindRedelegate
	KindUnjail
	KindPropose
	KindVote
)

var kindNames = [...]string{
	KindTransfer: "transfer", KindBatch: "batch", KindLock: "lock", KindUnlock: "unlock",
	KindRegister: "register", KindUnregister: "unregister",
	KindOpen: "open", KindClaim: "claim", KindClose: "close", KindReclaim: "reclaim",
	KindMailbox: "mailbox", KindValidator: "validator", KindDelegate: "delegate", KindUndelegate: "undelegate",
	KindRedelegate: "redelegate", KindUnjail: "unjail", KindPropose: "propose", KindVote: "vote",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// KindNames lists every kind by name.
func KindNames() []string { return append([]string(nil), kindNames[1:]...) }

func kindNamed(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name && n != "" {
			return Kind(k), true
		}
	}
	return 0, false
}

// A Tx is one signed transaction. Key signs it and From is whose account it
// concerns: Key is that account's key or, for a claim and a provider's close,
// its node key. Naming both makes the signature checkable without state.
type Tx struct {
	Chain  top.ChainID
	From   uint32
	Key    [32]byte
	Nonce  uint64 // 0 for a claim and a provider's close
	Expiry uint64 // block time, unix seconds, from which it is void
	Body   Body
	Sig    [64]byte
}

// A Body is what a transaction of one kind says.
type Body interface {
	Kind() Kind
	put(e *wire.Encoder)
	get(d *wire.Decoder)
}

// newBody is an empty body of a kind; nil when there is no such kind.
func newBody(k Kind) Body {
	switch k {
	case KindTransfer:
		return new(Transfer)
	case KindBatch:
		return new(Batch)
	case KindLock:
		return new(Lock)
	case KindUnlock:
		return new(Unlock)
	case KindRegister:
		return new(Register)
	case KindUnregister:
		return new(Unregister)
	case KindOpen:
		return new(Open)
	case KindClaim:
		return new(Claim)
	case KindClose:
		return new(Close)
	case KindReclaim:
		return new(Reclaim)
	case KindMailbox:
		return new(Mailbox)
	case KindValidator:
		return new(Validator)
	case KindDelegate:
		return new(Delegate)
	case KindUndelegate:
		return new(Undelegate)
	case KindRedelegate:
		return new(Redelegate)
	case KindUnjail:
		return new(Unjail)
	case KindPropose:
		return new(Propose)
	case KindVote:
		return new(Vote)
	}
	return nil
}

// content is what the signature covers, besides domain and chain.
func (t *Tx) content() []byte {
	var e wire.Encoder
	e.Byte(byte(t.Body.Kind()))
	e.Uint(uint64(t.From))
	e.Raw(t.Key[:])
	e.Uint(t.Nonce)
	e.Uint(t.Expiry)
	t.Body.put(&e)
	return e.Out()
}

// Encode is the canonical form (docs/wire.md, "Transaction").
func (t *Tx) Encode() []byte {
	c := t.content()
	b := make([]byte, 0, len(t.Chain)+len(c)+len(t.Sig))
	b = append(b, t.Chain[:]...)
	b = append(b, c...)
	return append(b, t.Sig[:]...)
}

// Decode reads the canonical form of a transaction and refuses every other. It
// does not check the signature.
func Decode(raw []byte) (*Tx, error) {
	d := wire.Decode(raw, MaxTx)
	t := new(Tx)
	d.Fill(t.Chain[:])
	t.Body = newBody(Kind(d.Byte()))
	if d.Err() == nil && t.Body == nil {
		d.Fail("no such transaction kind")
	}
	if d.Err() == nil {
		t.From = d.Uint32()
		d.Fill(t.Key[:])
		t.Nonce, t.Expiry = d.Uint(), d.Uint()
		t.Body.get(d)
		d.Fill(t.Sig[:])
	}
	if err := d.End(); err != nil {
		return nil, fmt.Errorf("transaction: %w", err)
	}
	return t, nil
}

// ID names a transaction by the SHA-256 of its bytes, as CometBFT does.
func ID(raw []byte) top.ID { return sha256.Sum256(raw) }

// Sign signs with s, whose public key becomes Key.
func (t *Tx) Sign(s keys.Signer) (err error) {
	t.Key = s.Public()
	t.Sig, err = s.Sign(txDomain, t.Chain, t.content())
	return err
}

// Verify checks the signature, by ZIP-215 and without any state.
func (t *Tx) Verify() error {
	if !keys.Verify(t.Key, txDomain, t.Chain, t.content(), t.Sig) {
		return ErrSignature
	}
	return nil
}

// ErrSignature is a transaction that whom it names did not sign.
var ErrSignature = fmt.Errorf("transaction: the signature is wrong: %w", top.ErrDenied)

// A Dest is who receives: an account by its index, or an address, which gets an
// account if it has none.
type Dest struct {
	Index   uint32
	Address *top.Address // nil: by index
}

// To is the Dest of an index.
func To(index uint32) Dest { return Dest{Index: index} }

// ToAddress is the Dest of an address.
func ToAddress(a top.Address) Dest { return Dest{Address: &a} }

func (t Dest) put(e *wire.Encoder) {
	if t.Address != nil {
		e.Uint(0)
		e.Raw(t.Address[:])
		return
	}
	e.Uint(uint64(t.Index) + 1)
}

func (t *Dest) get(d *wire.Decoder) {
	n := d.Uint()
	switch {
	case n == 0:
		t.Address = new(top.Address)
		d.Fill(t.Address[:])
	case n > 1<<32:
		d.Fail("account index %d", n-1)
	default:
		t.Index = uint32(n - 1)
	}
}

// amount reads an amount that must not be zero.
func amount(d *wire.Decoder) top.Amount {
	a := d.Amount()
	if d.Err() == nil && a == 0 {
		d.Fail("an amount of nothing")
	}
	return a
}

// Transfer pays one recipient.
type Transfer struct {
	To     Dest
	Amount top.Amount
	Memo   string // for people, at most 64 bytes
}

const maxMemo = 64

// Kind is KindTransfer.
func (*Transfer) Kind() Kind { return KindTransfer }

func (b *Transfer) put(e *wire.Encoder) {
	b.To.put(e)
	e.Amount(b.Amount)
	e.String(b.Memo)
}

func (b *Transfer) get(d *wire.Decoder) {
	b.To.get(d)
	b.Amount = amount(d)
	b.Memo = d.String(maxMemo)
}

// A Record is one payment of a Batch. Index below the number of new addresses
// names one of those; above, the account Index - len(New).
type Record struct {
	Index  uint32
	Amount top.Amount
}

// Batch pays many recipients under one signature and one nonce, all or none.
type Batch struct {
	New     []top.Address
	Records []Record
}

// MaxRecords bounds a Batch.
const MaxRecords = 50_000

// Kind is KindBatch.
func (*Batch) Kind() Kind { return KindBatch }

func (b *Batch) put(e *wire.Encoder) {
	e.Uint(uint64(len(b.New)))
	for _, a := range b.New {
		e.Raw(a[:])
	}
	e.Uint(uint64(len(b.Records)))
	for _, r := range b.Records {
		e.Uint(uint64(r.Index))
		e.Amount(r.Amount)
	}
}

func (b *Batch) get(d *wire.Decoder) {
	b.New = make([]top.Address, d.Count(MaxRecords, 32))
	for i := range b.New {
		d.Fill(b.New[i][:])
	}
	n := d.Count(MaxRecords, 2)
	if n == 0 {
		d.Fail("a batch of nothing")
	}
	b.Records = make([]Record, n)
	for i := range b.Records {
		b.Records[i] = Record{d.Uint32(), amount(d)}
	}
}

// Lock puts money aside: while locked it earns an allowance of free bytes.
type Lock struct{ Amount top.Amount }

// Kind is KindLock.
func (*Lock) Kind() Kind            { return KindLock }
func (b *Lock) put(e *wire.Encoder) { e.Amount(b.Amount) }
func (b *Lock) get(d *wire.Decoder) { b.Amount = amount(d) }

// Unlock sends locked money on its way back, which takes UnlockSeconds.
type Unlock struct{ Amount top.Amount }

// Kind is KindUnlock.
func (*Unlock) Kind() Kind            { return KindUnlock }
func (b *Unlock) put(e *wire.Encoder) { e.Amount(b.Amount) }
func (b *Unlock) get(d *wire.Decoder) { b.Amount = amount(d) }

// Register enters the sender's node in the registry, or changes its row.
type Register struct {
	Node     top.NodeID
	NodeSig  [64]byte // of the owner's address, by the node key: whoever registers holds it
	Name     string
	Addrs    []string // where the node is reached
	Offers   []session.Offer
	Capacity uint64     // claimed, kbit/s
	Stake    top.Amount // in all; a change of it moves money
}

const (
	registerDomain = "top/register/1"
	maxName        = 32
	maxAddrs       = 8
	maxAddr        = 256
	maxOffers      = 16
)

// Kind is KindRegister.
func (*Register) Kind() Kind { return KindRegister }

func (b *Register) put(e *wire.Encoder) {
	e.Raw(b.Node[:])
	e.Raw(b.NodeSig[:])
	e.String(b.Name)
	e.Uint(uint64(len(b.Addrs)))
	for _, a := range b.Addrs {
		e.String(a)
	}
	e.Uint(uint64(len(b.Offers)))
	for _, o := range b.Offers {
		o.Put(e)
	}
	e.Uint(b.Capacity)
	e.Amount(b.Stake)
}

func (b *Register) get(d *wire.Decoder) {
	d.Fill(b.Node[:])
	d.Fill(b.NodeSig[:])
	b.Name = d.String(maxName)
	b.Addrs = nil
	for range d.Count(maxAddrs, 1) {
		b.Addrs = append(b.Addrs, d.String(maxAddr))
	}
	b.Offers = nil
	for range d.Count(maxOffers, 5) {
		var o session.Offer
		o.Get(d)
		b.Offers = append(b.Offers, o)
	}
	b.Capacity, b.Stake = d.Uint(), d.Amount()
}

// SignNode signs with the node key for an owner on a chain.
func (b *Register) SignNode(node keys.Signer, chain top.ChainID, owner top.Address) (err error) {
	b.Node = node.Public()
	b.NodeSig, err = node.Sign(registerDomain, chain, owner[:])
	return err
}

// Unregister takes the sender's node out of the registry; its stake comes back
// as unlocked money does.
type Unregister struct{}

// Kind is KindUnregister.
func (*Unregister) Kind() Kind        { return KindUnregister }
func (*Unregister) put(*wire.Encoder) {}
func (*Unregister) get(*wire.Decoder) {}

// Open locks a cap in a new channel to one provider.
type Open struct {
	Provider uint32
	Cap      top.Amount
	Expiry   uint64 // block time, unix seconds
}

// Kind is KindOpen.
func (*Open) Kind() Kind { return KindOpen }

func (b *Open) put(e *wire.Encoder) {
	e.Uint(uint64(b.Provider))
	e.Amount(b.Cap)
	e.Uint(b.Expiry)
}

func (b *Open) get(d *wire.Decoder) {
	b.Provider, b.Cap, b.Expiry = d.Uint32(), amount(d), d.Uint()
}

// Claim pays a provider what a voucher and its ticks prove.
type Claim struct {
	Claim session.Claim

	proven proven // not of the transaction: what Admit or Apply found
}

// Kind is KindClaim.
func (*Claim) Kind() Kind            { return KindClaim }
func (b *Claim) put(e *wire.Encoder) { b.Claim.Put(e) }
func (b *Claim) get(d *wire.Decoder) { b.Claim.Get(d); b.proven = proven{} }

// Close ends a channel: at once by the provider, with a last claim if there is
// one; by the payer after the deadline.
type Close struct {
	Channel top.ID
	Claim   *session.Claim
}

// Kind is KindClose.
func (*Close) Kind() Kind { return KindClose }

func (b *Close) put(e *wire.Encoder) {
	e.Raw(b.Channel[:])
	e.Bool(b.Claim != nil)
	if b.Claim != nil {
		b.Claim.Put(e)
	}
}

func (b *Close) get(d *wire.Decoder) {
	b.Channel, b.Claim = d.ID(), nil
	if d.Bool() {
		b.Claim = new(session.Claim)
		b.Claim.Get(d)
	}
}

// Reclaim takes back what is left in a channel past its deadline.
type Reclaim struct{ Channel top.ID }

// Kind is KindReclaim.
func (*Reclaim) Kind() Kind            { return KindReclaim }
func (b *Reclaim) put(e *wire.Encoder) { e.Raw(b.Channel[:]) }
func (b *Reclaim) get(d *wire.Decoder) { b.Channel = d.ID() }

// Mailbox says which mailbox record of the sender is the newest, by its digest and
// its number, which only rises.
type Mailbox struct {
	Digest top.ID
	Seq    uint64
}

// Kind is KindMailbox.
func (*Mailbox) Kind() Kind            { return KindMailbox }
func (b *Mailbox) put(e *wire.Encoder) { e.Raw(b.Digest[:]); e.Uint(b.Seq) }
func (b *Mailbox) get(d *wire.Decoder) { b.Digest, b.Seq = d.ID(), d.Uint() }
