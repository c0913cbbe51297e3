package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"top/lib/sock"
	"top/lib/top"
)

// Chain is a client of a chain.sock: a validator's, a full node's or a light
// client's, which answer alike.
type Chain struct{ c *sock.Client }

// NewChain speaks to the daemon behind c.
func NewChain(c *sock.Client) *Chain { return &Chain{c} }

// A ChainStatus says what a chain daemon is and where it stands.
type ChainStatus struct {
	Type        string      `json:"type"` // "chain-status"
	Chain       top.ChainID `json:"chain"`
	Role        string      `json:"role"` // "validator", "full" or "light"
	Height      top.Height  `json:"height"`
	Time        top.Time    `json:"time"` // of the block at Height
	Header      top.ID      `json:"header"`
	Root        top.ID      `json:"root"`    // the app hash in that header: the state before Height
	Genesis     top.ID      `json:"genesis"` // SHA-256 of the genesis file
	CatchingUp  bool        `json:"catching_up"`
	Stale       bool        `json:"stale"` // the head is older than 60 s
	Peers       int         `json:"peers"`
	Validators  int         `json:"validators"`
	Addresses   []string    `json:"addresses"` // libp2p addresses that light clients dial
	Consensus   string      `json:"consensus,omitempty"`
	Earliest    top.Height  `json:"earliest"`
	Evidence    int         `json:"evidence"` // conflicting headers kept
	FeePerByte  top.Amount  `json:"fee_per_byte"`
	AccountFee  top.Amount  `json:"account_fee"`
	Supply      top.Amount  `json:"supply"` // at genesis
	Minted      top.Amount  `json:"minted"` // since, by the yield of stakes
	Burned      top.Amount  `json:"burned"` // since
	Accounts    top.Count   `json:"accounts"`
	TxKinds     []string    `json:"tx_kinds"`
	Pending     int         `json:"pending"` // transactions that wait for a block
	Version     string      `json:"version"`
	UptimeMs    top.Count   `json:"uptime_ms"`
	TrustHeight top.Height  `json:"trust_height,omitempty"`
}

// A Header is a block's header that the daemon has verified by the signatures
// of more than two thirds of the validators' power.
type Header struct {
	Height top.Height `json:"height"`
	Time   top.Time   `json:"time"`
	Hash   top.ID     `json:"hash"`
	Root   top.ID     `json:"root"` // state root after the block before
}

// A Dial is another node that a chain daemon was told to reach: this machine's way to the
// chain.
type Dial struct {
	Type string `json:"type"` // "dial"
	Addr string `json:"addr"` // IP:PORT, of TCP or UDP
}

// Params are the parameters of a chain, as proven by its root. A vote can change
// them (top-wallet propose).
type Params struct {
	Type           string      `json:"type"` // "params"
	Chain          top.ChainID `json:"chain"`
	Kinds          []string    `json:"kinds"`
	FeePerByte     top.Amount  `json:"fee_per_byte"`
	AccountFee     top.Amount  `json:"account_fee"`
	AllowanceBytes top.Count   `json:"allowance_bytes"` // a day, per TOP locked
	UnlockSeconds  top.Count   `json:"unlock_seconds"`
	DeadlineSec    top.Count   `json:"deadline_seconds"`
	DeadlineBlocks top.Count   `json:"deadline_blocks"`
	EpochBlocks    top.Count   `json:"epoch_blocks"`
	MaxValidators  top.Count   `json:"max_validators"`
	MinSelfStake   top.Amount  `json:"min_self_stake"`
	UnbondSeconds  top.Count   `json:"unbond_seconds"`
	YieldPPM       top.Count   `json:"yield_ppm"` // a year
	DoubleSignPPM  top.Count   `json:"double_sign_ppm"`
	DowntimePPM    top.Count   `json:"downtime_ppm"`
	DowntimeEpochs top.Count   `json:"downtime_epochs"`
	JailSeconds    top.Count   `json:"jail_seconds"`
	VoteEpochs     top.Count   `json:"vote_epochs"`
	Deposit        top.Amount  `json:"proposal_deposit"`
	Supply         top.Amount  `json:"supply"`
	Minted         top.Amount  `json:"minted"`
	Burned         top.Amount  `json:"burned"`
	Accounts       top.Count   `json:"accounts"`
	At             Header      `json:"at"`
	Proof          Bytes       `json:"proof"` // ledger.MetaProof
}

// An Account is what the chain says of an address at a header, with the proof.
// Exists false is proven too.
type Account struct {
	Type       string      `json:"type"` // "account"
	Address    top.Address `json:"address"`
	Exists     bool        `json:"exists"`
	Index      uint32      `json:"index"`
	Balance    top.Amount  `json:"balance"`
	Locked     top.Amount  `json:"locked"`
	Unlocking  top.Amount  `json:"unlocking"`
	UnlockAt   *top.Time   `json:"unlock_at,omitempty"`
	Nonce      top.Count   `json:"nonce"`     // the highest used
	Window     top.Count   `json:"window"`    // bit i: nonce-i is used
	Allowance  top.Count   `json:"allowance"` // bytes, at the header's time
	Node       *top.NodeID `json:"node,omitempty"`
	Channels   uint32      `json:"channels"`         // open channels that it pays for
	Mailbox    top.ID      `json:"mailbox,omitzero"` // digest of its newest mailbox record
	MailboxSeq top.Count   `json:"mailbox_seq,omitempty"`
	At         Header      `json:"at"`
	Proof      Bytes       `json:"proof"` // ledger.AccountProof
}

// A Channel is one payment channel at a header, with the proof. Exists false
// says, proven, that it is closed or never was.
type Channel struct {
	Type         string      `json:"type"` // "channel"
	Channel      top.ID      `json:"channel"`
	Exists       bool        `json:"exists"`
	Payer        top.Address `json:"payer"`
	PayerIndex   uint32      `json:"payer_index"`
	Provider     top.Address `json:"provider"`
	ProvIndex    uint32      `json:"provider_index"`
	Node         *top.NodeID `json:"node,omitempty"`
	Cap          top.Amount  `json:"cap"`
	Paid         top.Amount  `json:"paid"`
	Seq          top.Count   `json:"seq"` // of the newest voucher claimed
	Opened       top.Height  `json:"opened"`
	Expiry       top.Time    `json:"expiry"`
	ExpiryHeight top.Height  `json:"expiry_height"`
	Closing      bool        `json:"closing"`
	At           Header      `json:"at"`
	Proof        Bytes       `json:"proof"` // ledger.ChannelProof
	// PayerID is set by top-wallet channels: the payer key of this wallet that pays.
	PayerID string `json:"payer_id,omitempty"`
}

// An Offer is one service that a node sells.
type Offer struct {
	Service string     `json:"service"`
	Unit    string     `json:"unit"`   // "64KiB", "1s", "message", "GiB-epoch", "record"
	Price   top.Amount `json:"price"`  // of one unit
	Window  uint32     `json:"window"` // largest credit window, units
	Hold    []Hold     `json:"hold,omitempty"`
}

// A Hold is a tier of keeping for offline recipients: units cost 1+Factor
// times the price.
type Hold struct {
	Seconds top.Count `json:"seconds"`
	Factor  uint32    `json:"factor"`
}

// A Node is one row of the registry at a header, with the proof.
type Node struct {
	Type     string      `json:"type"` // "node"
	Node     top.NodeID  `json:"node"`
	Exists   bool        `json:"exists"`
	Owner    top.Address `json:"owner"`
	OwnerIdx uint32      `json:"owner_index"`
	Name     string      `json:"name"`
	Addrs    []string    `json:"addrs"`
	Offers   []Offer     `json:"offers"`
	Capacity top.Count   `json:"capacity_kbps"`
	Stake    top.Amount  `json:"stake"`
	At       Header      `json:"at"`
	Proof    Bytes       `json:"proof"` // ledger.NodeProof
}

// Offer is what the node asks for a unit of a service; false when it sells none.
func (n Node) Offer(service, unit string) (Offer, bool) {
	for _, o := range n.Offers {
		if o.Service == service && o.Unit == unit {
			return o, true
		}
	}
	return Offer{}, false
}

// A Tx is a transaction and what became of it. Height 0 means that it waits.
type Tx struct {
	Type    string      `json:"type"` // "tx"
	ID      top.ID      `json:"id"`
	Kind    string      `json:"kind"`
	From    top.Address `json:"from"`
	Height  top.Height  `json:"height"`
	Index   uint32      `json:"index"` // within its block
	Time    top.Time    `json:"time"`  // of its block
	OK      bool        `json:"ok"`
	Code    uint32      `json:"code"`              // the exit code of Error; 0 is done
	Error   string      `json:"error,omitempty"`   // a kind
	Message string      `json:"message,omitempty"` // for people; only Code is agreed upon
	Fee     top.Amount  `json:"fee"`
	Free    bool        `json:"free"` // paid from the allowance
	Size    int         `json:"size"`
	Channel *top.ID     `json:"channel,omitempty"` // opened, claimed or closed by it
	Paid    top.Amount  `json:"paid"`              // by a claim or a close, to the provider
	Proof   Bytes       `json:"proof,omitempty"`   // inclusion and result, checked by the light client
	Raw     Bytes       `json:"raw,omitempty"`
}

// An Entry is one change of one account's money. Amounts are never negative;
// Way says the direction.
type Entry struct {
	Type    string       `json:"type"` // "entry"
	Account top.Address  `json:"account"`
	Seq     top.Count    `json:"seq"` // place in this account's history, from 1
	Tx      top.ID       `json:"tx"`
	Kind    string       `json:"kind"` // of the transaction, or "genesis", "unlocked"
	Way     string       `json:"way"`  // "in", "out" or "none"
	Amount  top.Amount   `json:"amount"`
	Fee     top.Amount   `json:"fee"`
	Free    bool         `json:"free,omitempty"`
	Peer    *top.Address `json:"peer,omitempty"`
	Peers   int          `json:"peers,omitempty"` // recipients, of a batch sent
	Channel *top.ID      `json:"channel,omitempty"`
	OK      bool         `json:"ok"`
	Error   string       `json:"error,omitempty"`
	Height  top.Height   `json:"height"`
	Time    top.Time     `json:"time"`
	PayerID string       `json:"payer_id,omitempty"` // set by top-wallet history --payers
}

// Text is the entry as a line for people.
func (e Entry) Text() string {
	sign := map[string]string{"in": "+", "out": "-"}[e.Way]
	s := fmt.Sprintf("%s  %-10s %s%s TOP", e.Time, e.Kind, sign, e.Amount)
	if e.Fee > 0 {
		s += fmt.Sprintf("  fee %s", e.Fee)
	}
	switch {
	case e.Peer != nil && e.Way == "in":
		s += fmt.Sprintf("  from %s", e.Peer)
	case e.Peer != nil:
		s += fmt.Sprintf("  to %s", e.Peer)
	case e.Peers > 0:
		s += fmt.Sprintf("  with %d others", e.Peers)
	}
	if e.Channel != nil {
		s += fmt.Sprintf("  channel %s", e.Channel.Short())
	}
	if !e.OK {
		s += "  " + e.Error
	}
	return s
}

// An Event is one thing that happened on the chain. Seq rises by one from
// block to block: Since resumes without a gap.
type Event struct {
	Type   string     `json:"type"` // "block", or "tx" with the fields of Tx
	Height top.Height `json:"height"`
	Time   top.Time   `json:"time"`
	Hash   top.ID     `json:"hash"`
	Root   top.ID     `json:"root"`
	Txs    int        `json:"txs"`
}

// A LightBlock is a header, the commit that makes it final and the validators
// that signed it, for who verifies them himself.
type LightBlock struct {
	Type   string     `json:"type"` // "light-block"
	Height top.Height `json:"height"`
	Block  Bytes      `json:"block"` // protobuf: CometBFT's tendermint.types.LightBlock
}

// A SignedTx is a transaction that is signed and was not submitted. Whoever has
// it can submit it, once.
type SignedTx struct {
	Type   string   `json:"type"` // "signed-tx"
	ID     top.ID   `json:"id"`
	Kind   string   `json:"kind"`
	Expiry top.Time `json:"expiry"` // block time from which it is void
	Raw    Bytes    `json:"raw"`    // docs/wire.md, "Transaction"
}

// A Submitted says that a node took a transaction into its pool.
type Submitted struct {
	Type string `json:"type"` // "submitted"
	ID   top.ID `json:"id"`
}

// A Verified says that a node's blocks were carried out again and gave what the
// validators signed.
type Verified struct {
	Type       string      `json:"type"` // "verified"
	Chain      top.ChainID `json:"chain"`
	From       top.Height  `json:"from"`   // the first block
	Height     top.Height  `json:"height"` // the last
	Root       top.ID      `json:"root"`   // after it
	Signatures bool        `json:"signatures"`
	Txs        top.Count   `json:"txs"`
	Failed     top.Count   `json:"failed"`
	Supply     top.Amount  `json:"supply"` // at genesis
	Minted     top.Amount  `json:"minted"` // since, by the yield of stakes
	Burned     top.Amount  `json:"burned"` // since
	Accounts   top.Count   `json:"accounts"`
}

// Status asks where the daemon stands. It never waits.
func (c *Chain) Status(ctx context.Context) (s ChainStatus, err error) {
	return s, c.c.Get(ctx, "/v1/status", &s)
}

// Params asks for the chain's parameters.
func (c *Chain) Params(ctx context.Context) (p Params, err error) {
	return p, c.c.Get(ctx, "/v1/params", &p)
}

// Genesis asks for the genesis file.
func (c *Chain) Genesis(ctx context.Context) (raw json.RawMessage, err error) {
	return raw, c.c.Get(ctx, "/v1/genesis", &raw)
}

// LightBlock asks for the header at a height, with its commit and validators; 0
// asks for the newest. One that is not final yet is waited for.
func (c *Chain) LightBlock(ctx context.Context, h top.Height, wait time.Duration) (b LightBlock, err error) {
	at := "latest"
	if h > 0 {
		at = h.String()
	}
	return b, c.c.Get(ctx, fmt.Sprintf("/v1/headers/%s?wait=%s", at, wait), &b)
}

// Submit hands a signed transaction to the node. It returns once the
// transaction is in a pool, not when it is final; a transaction that is in the
// pool or on the chain already is no error.
func (c *Chain) Submit(ctx context.Context, raw []byte) (s Submitted, err error) {
	return s, c.c.Post(ctx, "/v1/txs", map[string]Bytes{"tx": raw}, &s)
}

// Tx asks what became of a transaction. With wait it blocks until the
// transaction is final or wait has passed; then, or when the node never saw it,
// the error is top.ErrNotFound.
func (c *Chain) Tx(ctx context.Context, id top.ID, wait time.Duration) (t Tx, err error) {
	return t, c.c.Get(ctx, fmt.Sprintf("/v1/txs/%s?wait=%s", id, wait), &t)
}

// TxAt asks for a transaction with its proof at a place of a block: one may stand in
// several, and changes something at one of them at most.
func (c *Chain) TxAt(ctx context.Context, id top.ID, height top.Height, index uint32) (t Tx, err error) {
	return t, c.c.Get(ctx, fmt.Sprintf("/v1/txs/%s?height=%s&index=%d", id, height, index), &t)
}

// Account asks for an account with its proof.
func (c *Chain) Account(ctx context.Context, a top.Address) (r Account, err error) {
	return r, c.c.Get(ctx, "/v1/accounts/"+a.String(), &r)
}

// History calls each for every entry of an account after since, oldest first,
// at most limit of them (0 is all).
func (c *Chain) History(ctx context.Context, a top.Address, since top.Count, limit int, each func(Entry) error) error {
	q := url.Values{"since": {since.String()}, "limit": {strconv.Itoa(limit)}}
	return stream(ctx, c.c, "/v1/accounts/"+a.String()+"/history?"+q.Encode(), each)
}

// Channel asks for a channel with its proof.
func (c *Chain) Channel(ctx context.Context, id top.ID) (r Channel, err error) {
	return r, c.c.Get(ctx, "/v1/channels/"+id.String(), &r)
}

// Channels calls each for every open channel of an account, as payer and as
// provider.
func (c *Chain) Channels(ctx context.Context, a top.Address, each func(Channel) error) error {
	return stream(ctx, c.c, "/v1/accounts/"+a.String()+"/channels", each)
}

// Node asks for a row of the registry with its proof.
func (c *Chain) Node(ctx context.Context, id top.NodeID) (r Node, err error) {
	return r, c.c.Get(ctx, "/v1/nodes/"+id.String(), &r)
}

// Nodes calls each for every node that sells a service ("" is all).
func (c *Chain) Nodes(ctx context.Context, service string, each func(Node) error) error {
	return stream(ctx, c.c, "/v1/nodes?"+url.Values{"service": {service}}.Encode(), each)
}

// Dials calls each for every node that the daemon was told to reach, as far as its
// address is known.
func (c *Chain) Dials(ctx context.Context, each func(Dial) error) error {
	return stream(ctx, c.c, "/v1/dials", each)
}

// Events calls each for every block and transaction after height since, and
// goes on until ctx ends. Records other than those known are passed as they are.
func (c *Chain) Events(ctx context.Context, since top.Height, each func(json.RawMessage) error) error {
	return c.c.Stream(ctx, "GET", "/v1/events?since="+since.String(), nil, each)
}

// stream decodes each record of an NDJSON answer.
func stream[T any](ctx context.Context, c *sock.Client, path string, each func(T) error) error {
	return c.Stream(ctx, "GET", path, nil, func(raw json.RawMessage) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("answer of %s: %w", path, err)
		}
		return each(v)
	})
}
