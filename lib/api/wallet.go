package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"top/lib/keys"
	"top/lib/sock"
	"top/lib/top"
)

// Wallet is a client of wallet.sock: the agent that holds an account's key.
type Wallet struct{ c *sock.Client }

// NewWallet speaks to the agent behind c.
func NewWallet(c *sock.Client) *Wallet { return &Wallet{c} }

// A WalletStatus says whose key the agent holds and what it has under way.
type WalletStatus struct {
	Type     string      `json:"type"` // "wallet-status"
	Address  top.Address `json:"address"`
	Chain    top.ChainID `json:"chain"`
	Pending  int         `json:"pending"` // payments signed and not final
	Batches  []string    `json:"batches"` // ids of batches that are not finished
	Signed   top.Count   `json:"signed"`  // entries of the signing record
	Head     top.ID      `json:"head"`    // digest of its last entry
	Version  string      `json:"version"`
	UptimeMs top.Count   `json:"uptime_ms"`
}

// A Spend asks the agent for one transaction of the account. Which fields count
// depends on Kind.
type Spend struct {
	ID         string      `json:"id"`   // names the wish: the same id twice has the effect of one
	Kind       string      `json:"kind"` // "transfer", "lock", "unlock", "register", "unregister", "open", "close", "reclaim", "mailbox", or one of stakes
	To         top.Address `json:"to,omitzero"`
	Amount     top.Amount  `json:"amount,omitempty"` // nano: paid, locked, unlocked, or the cap of a channel
	Memo       string      `json:"memo,omitempty"`
	Channel    top.ID      `json:"channel,omitzero"`
	LastsMs    top.Count   `json:"lasts_ms,omitempty"` // how long a channel is open
	Service    string      `json:"service,omitempty"`  // whose budget bounds the cap of a channel; "" is none
	Node       *NodeOffer  `json:"node,omitempty"`     // of a register
	Mailbox    top.ID      `json:"mailbox,omitzero"`   // digest of a mailbox record
	MailboxSeq top.Count   `json:"mailbox_seq,omitempty"`
	Stake      *StakeWish  `json:"stake,omitempty"` // of a validator, delegate, undelegate, redelegate, unjail, propose or vote
	DryRun     bool        `json:"dry_run,omitempty"`
	NoSubmit   bool        `json:"no_submit,omitempty"` // sign and give back, do not submit
	VoidMs     top.Count   `json:"void_ms,omitempty"`   // how long the transaction is good for; 0 is 2 minutes
	WaitMs     top.Count   `json:"wait_ms,omitempty"`   // how long to wait until it is final
}

// A NodeOffer is what a node registers. NodeSig proves that its key agrees.
type NodeOffer struct {
	Node     top.NodeID `json:"node"`
	NodeSig  Bytes      `json:"node_sig"`
	Name     string     `json:"name"`
	Addrs    []string   `json:"addrs"`
	Offers   []Offer    `json:"offers"`
	Capacity top.Count  `json:"capacity_kbps"`
	Stake    top.Amount `json:"stake"`
}

// A Payment is what became of a Spend.
type Payment struct {
	Type       string       `json:"type"` // "payment"
	ID         string       `json:"id"`
	Kind       string       `json:"kind"`
	State      string       `json:"state"` // "dry-run", "signed", "pending", "final", "failed"
	To         *top.Address `json:"to,omitempty"`
	Amount     top.Amount   `json:"amount"`
	Fee        top.Amount   `json:"fee"`
	Free       bool         `json:"free"` // the fee is paid from the allowance
	NewAccount bool         `json:"new_account,omitempty"`
	AccountFee top.Amount   `json:"account_fee,omitempty"` // taken out of what a new account gets
	Size       int          `json:"size"`
	Tx         *top.ID      `json:"tx,omitempty"`
	Channel    *top.ID      `json:"channel,omitempty"`
	Height     top.Height   `json:"height,omitempty"`
	Time       *top.Time    `json:"time,omitempty"` // of its block
	Expiry     *top.Time    `json:"expiry,omitempty"`
	Balance    top.Amount   `json:"balance,omitempty"` // of a dry run: proven, before it
	After      top.Amount   `json:"after,omitempty"`   // of a dry run: what would be left
	Error      string       `json:"error,omitempty"`
	Message    string       `json:"message,omitempty"`
	Repeated   bool         `json:"repeated,omitempty"` // the id was used before: nothing was sent now
	Raw        Bytes        `json:"raw,omitempty"`      // with no_submit
}

// A Batch says where a batch of payments stands.
type Batch struct {
	Type   string     `json:"type"` // "batch"
	ID     string     `json:"id"`
	State  string     `json:"state"` // "dry-run", "running", "stopped", "final"
	Digest top.ID     `json:"digest"`
	Count  int        `json:"count"` // payments
	Total  top.Amount `json:"total"`
	Fee    top.Amount `json:"fee"` // of all parts
	Parts  int        `json:"parts"`
	Done   int        `json:"done"` // parts that are final
	Paid   top.Amount `json:"paid"` // by them
}

// A BatchPart is one transaction of a batch that is final.
type BatchPart struct {
	Type   string     `json:"type"` // "batch-part"
	ID     string     `json:"id"`   // of the batch
	Part   int        `json:"part"` // from 1
	Parts  int        `json:"parts"`
	Tx     top.ID     `json:"tx"`
	Count  int        `json:"count"`
	Amount top.Amount `json:"amount"`
	Fee    top.Amount `json:"fee"`
	Height top.Height `json:"height"`
	Time   top.Time   `json:"time"`
}

// A BatchRecord is one payment of a batch, as it is read and sent.
type BatchRecord struct {
	Type    string      `json:"type,omitempty"` // "pay"
	Address top.Address `json:"address"`
	Amount  top.Amount  `json:"amount"`
}

// BatchRequest asks for a batch. Payments are in the order of the input.
type BatchRequest struct {
	ID       string        `json:"id"`
	Payments []BatchRecord `json:"payments"`
	DryRun   bool          `json:"dry_run,omitempty"`
}

// A Budget bounds what the agent signs for one service's daemons, in nano over
// any 24 hours. Zero in PerPeer and OpenCap means no more than PerDay.
type Budget struct {
	Type    string     `json:"type"` // "budget"
	Service string     `json:"service"`
	PerDay  top.Amount `json:"per_day"`
	PerPeer top.Amount `json:"per_peer"`
	OpenCap top.Amount `json:"open_cap"` // caps of the channels open at once
	Spent   top.Amount `json:"spent"`    // exposed in the last 24 hours
}

// A PayerWish asks the agent for a payer key: an account of its own, which pays
// for one channel of one service, to a node or to whoever runs one.
type PayerWish struct {
	ID       string      `json:"id"` // the same id twice has the effect of one
	Service  string      `json:"service"`
	Node     top.NodeID  `json:"node,omitzero"`
	Provider top.Address `json:"provider,omitzero"`
	Cap      top.Amount  `json:"cap"`
	LastsMs  top.Count   `json:"lasts_ms"`           // how long the channel is open
	NoSweep  bool        `json:"no_sweep,omitempty"` // in the end, leave what is left with the key
	WaitMs   top.Count   `json:"wait_ms,omitempty"`  // how long to wait until it is open; 0 is 30 s
}

// A PayerClose asks for the end of a payer key. Without Sweep it ends as it was
// wished.
type PayerClose struct {
	Sweep  *bool     `json:"sweep,omitempty"`
	WaitMs top.Count `json:"wait_ms,omitempty"`
}

// A Payer is a payer key and where it stands.
type Payer struct {
	Type     string      `json:"type"` // "payer"
	ID       string      `json:"id"`
	Index    uint32      `json:"index"` // of the key, among those of this wallet
	Address  top.Address `json:"address"`
	State    string      `json:"state"` // "new", "funded", "open", "closing", "closed", "swept" or "failed"
	Chain    top.ChainID `json:"chain"`
	Service  string      `json:"service,omitempty"`
	Provider top.Address `json:"provider,omitzero"`
	Node     top.NodeID  `json:"node,omitzero"`
	Channel  *top.ID     `json:"channel,omitempty"`
	Cap      top.Amount  `json:"cap"`
	LastsMs  top.Count   `json:"lasts_ms,omitempty"`
	Expiry   *top.Time   `json:"expiry,omitempty"` // of the channel
	Funded   top.Amount  `json:"funded"`           // given to the key: cap, account fee and fees
	Returned top.Amount  `json:"returned"`         // swept back to the account
	Ending   bool        `json:"ending,omitempty"` // it signs nothing more
	NoSweep  bool        `json:"no_sweep,omitempty"`
	Found    bool        `json:"found,omitempty"` // on the chain, by the words alone
	Message  string      `json:"message,omitempty"`
	Repeated bool        `json:"repeated,omitempty"` // the id was used before
}

// A SignedEntry is one line of the signing record: each names the digest of the
// one before and is signed by the account, so that none can be left out.
type SignedEntry struct {
	Type    string      `json:"type"` // "signed"
	Seq     top.Count   `json:"seq"`
	Time    top.Time    `json:"time"`
	What    string      `json:"what"` // "voucher", "ticket", "transaction" or "message"
	Service string      `json:"service,omitempty"`
	Peer    *top.NodeID `json:"peer,omitempty"`
	Channel *top.ID     `json:"channel,omitempty"`
	Number  top.Count   `json:"number,omitempty"`  // of the voucher
	Exposed top.Amount  `json:"exposed,omitempty"` // by the channel, in all
	Charged top.Amount  `json:"charged,omitempty"` // to the budget, by this one
	Digest  top.ID      `json:"digest"`            // of what was signed
	Before  top.ID      `json:"before"`            // digest of the entry before
	Sig     Bytes       `json:"sig"`
}

// A SignRequest asks the agent to sign for a session: a voucher or a ticket,
// unsigned, in its wire form.
type SignRequest struct {
	Service string     `json:"service"`
	Peer    top.NodeID `json:"peer"`
	Body    Bytes      `json:"body"`
}

// A CertificateRequest asks the agent to let a key act for the account.
type CertificateRequest struct {
	Role   string    `json:"role"` // "device"
	Key    Bytes     `json:"key"`
	Expiry top.Count `json:"expiry"` // unix seconds; 0 is 90 days from now
}

// A SignAnswer is the signed wire form.
type SignAnswer struct {
	Type string `json:"type"` // "signed-voucher", "signed-ticket", "signed-certificate" or "signed-mailbox"
	Body Bytes  `json:"body"`
}

// A MessageSignature is a signature of a text or a file, by the account's key.
type MessageSignature struct {
	Type    string      `json:"type"` // "signature"
	Address top.Address `json:"address"`
	Digest  top.ID      `json:"digest"` // SHA-256 of the content
	Sig     Bytes       `json:"sig"`
}

// Status asks the agent where it stands.
func (w *Wallet) Status(ctx context.Context) (s WalletStatus, err error) {
	return s, w.c.Get(ctx, "/v1/status", &s)
}

// Spend asks for one transaction. Repeating it with the same id has the effect
// of one. A payment that the chain refused is a Payment with Error, no error.
func (w *Wallet) Spend(ctx context.Context, s Spend) (p Payment, err error) {
	return p, w.c.Post(ctx, "/v1/payments", s, &p)
}

// Payment asks what became of a Spend.
func (w *Wallet) Payment(ctx context.Context, id string) (p Payment, err error) {
	return p, w.c.Get(ctx, "/v1/payments/"+url.PathEscape(id), &p)
}

// Batch runs a batch and calls each with a Batch, then a BatchPart for each part
// as it becomes final, then a Batch. Ending ctx stops it after the parts that
// are on their way; ResumeBatch goes on.
func (w *Wallet) Batch(ctx context.Context, q BatchRequest, each func(json.RawMessage) error) error {
	return w.c.Stream(ctx, "POST", "/v1/batches", q, each)
}

// ResumeBatch finishes a batch that was interrupted.
func (w *Wallet) ResumeBatch(ctx context.Context, id string, each func(json.RawMessage) error) error {
	return w.c.Stream(ctx, "POST", "/v1/batches/"+url.PathEscape(id)+"/resume", nil, each)
}

// Batches lists the batches of this wallet, oldest first.
func (w *Wallet) Batches(ctx context.Context, each func(Batch) error) error {
	return stream(ctx, w.c, "/v1/batches", each)
}

// Budgets lists the budgets.
func (w *Wallet) Budgets(ctx context.Context, each func(Budget) error) error {
	return stream(ctx, w.c, "/v1/budgets", each)
}

// SetBudget sets a service's budget; one with PerDay 0 takes it away.
func (w *Wallet) SetBudget(ctx context.Context, b Budget) (r Budget, err error) {
	return r, w.c.Post(ctx, "/v1/budgets", b, &r)
}

// SignVoucher asks for the signature of a voucher, which is charged to the
// service's budget. Beyond it the error is top.ErrDenied and names the command
// that would allow it.
func (w *Wallet) SignVoucher(ctx context.Context, q SignRequest) (a SignAnswer, err error) {
	return a, w.c.Post(ctx, "/v1/vouchers", q, &a)
}

// SignTicket asks for the payer's signature of a ticket.
func (w *Wallet) SignTicket(ctx context.Context, q SignRequest) (a SignAnswer, err error) {
	return a, w.c.Post(ctx, "/v1/tickets", q, &a)
}

// OpenPayer asks for a payer key with a channel of its own. When the answer's State
// is not "open", it is still on its way, and the same id asks again.
func (w *Wallet) OpenPayer(ctx context.Context, q PayerWish) (p Payer, err error) {
	return p, w.c.Post(ctx, "/v1/payers", q, &p)
}

// Payers lists the payer keys, in the order in which they were drawn.
func (w *Wallet) Payers(ctx context.Context, each func(Payer) error) error {
	return stream(ctx, w.c, "/v1/payers", each)
}

// ClosePayer ends a payer key; the agent sees it through.
func (w *Wallet) ClosePayer(ctx context.Context, id string, q PayerClose) (p Payer, err error) {
	return p, w.c.Post(ctx, "/v1/payers/"+url.PathEscape(id)+"/close", q, &p)
}

// ScanPayers searches the chain for payer keys of the same words that are not in
// this wallet's journal, ends them, and lists all.
func (w *Wallet) ScanPayers(ctx context.Context, each func(Payer) error) error {
	return w.c.Stream(ctx, "POST", "/v1/payers/scan", nil, func(raw json.RawMessage) error {
		var p Payer
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("payer record: %v: %w", err, top.ErrInvalid)
		}
		return each(p)
	})
}

// SignMessage asks for a signature of content, by its SHA-256.
func (w *Wallet) SignMessage(ctx context.Context, digest top.ID) (s MessageSignature, err error) {
	return s, w.c.Post(ctx, "/v1/messages", map[string]top.ID{"digest": digest}, &s)
}

// Certify asks for a certificate of a key for the role of a device, until a time in
// unix seconds at most 90 days ahead.
func (w *Wallet) Certify(ctx context.Context, key [32]byte, expiry uint64) (c keys.Certificate, err error) {
	var a SignAnswer
	if err := w.c.Post(ctx, "/v1/certificates", CertificateRequest{Role: "device", Key: key[:], Expiry: top.Count(expiry)}, &a); err != nil {
		return c, err
	}
	return c, c.Decode(a.Body)
}

// SignMailbox asks for the account's signature of the body of a mailbox record.
func (w *Wallet) SignMailbox(ctx context.Context, body []byte) (sig [64]byte, err error) {
	var a SignAnswer
	if err := w.c.Post(ctx, "/v1/mailboxes", SignRequest{Body: body}, &a); err != nil {
		return sig, err
	}
	if len(a.Body) != len(sig) {
		return sig, fmt.Errorf("a signature of %d bytes: %w", len(a.Body), top.ErrInvalid)
	}
	copy(sig[:], a.Body)
	return sig, nil
}

// Record calls each with every entry of the signing record after since.
func (w *Wallet) Record(ctx context.Context, since top.Count, limit int, each func(SignedEntry) error) error {
	q := url.Values{"since": {since.String()}, "limit": {strconv.Itoa(limit)}}
	return stream(ctx, w.c, "/v1/signed?"+q.Encode(), each)
}

// Text is the payment as a line for people.
func (p Payment) Text() string {
	what := p.Kind
	if p.Amount > 0 {
		what += " " + p.Amount.String() + " TOP"
	}
	if p.To != nil {
		what += " to " + p.To.String()
	}
	fee := fmt.Sprintf("fee %s TOP", p.Fee)
	if p.Free {
		fee = "no fee, paid from the allowance"
	}
	switch p.State {
	case "dry-run":
		s := fmt.Sprintf("would %s, %s; balance %s TOP, then %s TOP", what, fee, p.Balance, p.After)
		if p.NewAccount {
			s += fmt.Sprintf("; makes a new account, which costs %s TOP of it", p.AccountFee)
		}
		return s
	case "signed":
		return fmt.Sprintf("%s: signed, not submitted, good until %s", what, p.Expiry)
	case "pending":
		return fmt.Sprintf("%s: on its way (top-wallet payment %s asks again)", what, p.ID)
	case "failed":
		return fmt.Sprintf("%s: %s: %s", what, p.Error, p.Message)
	}
	s := fmt.Sprintf("%s, %s, final in block %s at %s", what, fee, p.Height, p.Time.Format(time.TimeOnly))
	if p.Channel != nil {
		s += fmt.Sprintf(", channel %s", p.Channel)
	}
	if p.Repeated {
		s += " (done before: nothing was sent now)"
	}
	return s
}

// A Settled says what a claim or a provider's close brought.
type Settled struct {
	Type    string     `json:"type"`  // "settled"
	State   string     `json:"state"` // "paid", "already", "closed" or "gone"
	Channel top.ID     `json:"channel"`
	Owed    top.Amount `json:"owed"`  // what the receipts prove, at most the cap
	Paid    top.Amount `json:"paid"`  // by this transaction
	Fee     top.Amount `json:"fee"`   // out of it
	Total   top.Amount `json:"total"` // paid by the channel since it was opened
	Tx      *top.ID    `json:"tx,omitempty"`
	Height  top.Height `json:"height,omitempty"`
}

// Text is the settlement as a line for people.
func (s Settled) Text() string {
	switch s.State {
	case "already":
		return fmt.Sprintf("channel %s: %s TOP were claimed before, nothing to gain now", s.Channel, s.Total)
	case "gone":
		return fmt.Sprintf("channel %s: closed before this: what was claimed stays, nothing more can be", s.Channel)
	case "closed":
		return fmt.Sprintf("channel %s: closed, %s TOP paid now, fee %s", s.Channel, s.Paid, s.Fee)
	}
	return fmt.Sprintf("channel %s: %s TOP paid now, fee %s, %s in all", s.Channel, s.Paid, s.Fee, s.Total)
}

// A BillRow is one line of a bill: a session, or what a channel pays beyond the
// sessions that are known.
type BillRow struct {
	Type    string        `json:"type"` // "bill-row"
	Kind    string        `json:"kind"` // "session" or "unattributed"
	Side    string        `json:"side"` // "spent", "earned", "both" or ""
	Chain   top.ChainID   `json:"chain"`
	Channel top.ID        `json:"channel"`
	Payer   top.Address   `json:"payer"`
	Node    top.NodeID    `json:"node"`
	Session top.SessionID `json:"session"`
	Service string        `json:"service"`
	Unit    string        `json:"unit"`
	Units   top.Count     `json:"units"`
	Price   top.Amount    `json:"price"`
	Amount  top.Amount    `json:"amount"`
	Unpaid  top.Amount    `json:"unpaid"` // logged by the node beyond what the channel pays
	// Unverified is how many units the consumer did not acknowledge: the node's own
	// count.
	Unverified top.Count `json:"unverified,omitempty"`
	PayerID    string    `json:"payer_id,omitempty"` // of the payer key of this wallet that pays
}

// A BillChannel is what one channel comes to, beside what the chain has paid.
type BillChannel struct {
	Type    string      `json:"type"` // "bill-channel"
	Chain   top.ChainID `json:"chain"`
	Channel top.ID      `json:"channel"`
	Side    string      `json:"side"`
	Owed    top.Amount  `json:"owed"`              // what the receipts prove, at most the cap when it is known
	Onchain *top.Amount `json:"onchain,omitempty"` // paid by the chain so far; absent offline
	PayerID string      `json:"payer_id,omitempty"`
}

// A Bill is the total: the rows add up to it.
type Bill struct {
	Type     string     `json:"type"` // "bill"
	Spent    top.Amount `json:"spent"`
	Earned   top.Amount `json:"earned"`
	Total    top.Amount `json:"total"` // of all rows, also those between others
	Receipts int        `json:"receipts"`
	Refused  int        `json:"refused"` // receipts that do not verify, and are not on the bill
	// Unverified is what units cost that no consumer acknowledged, out of Total.
	Unverified top.Amount `json:"unverified,omitempty"`
}
