package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"top/lib/sock"
	"top/lib/top"
)

// Relay is a client of relay.sock: a user's messaging agent, which may sell
// relaying too.
type Relay struct{ c *sock.Client }

// NewRelay speaks to the daemon behind c.
func NewRelay(c *sock.Client) *Relay { return &Relay{c} }

// A RelayStatus says who a messaging agent is and where it stands.
type RelayStatus struct {
	Type         string      `json:"type"` // "relay-status"
	Address      top.Address `json:"address"`
	Chain        top.ChainID `json:"chain"`
	Device       string      `json:"device"` // hex of its key
	Peer         string      `json:"peer"`   // its name on the mesh
	Addrs        []string    `json:"addrs"`
	Reachability string      `json:"reachability"` // "public", "private" or "unknown"
	Providing    bool        `json:"providing"`
	Node         *top.NodeID `json:"node,omitempty"` // that provides
	Mailbox      top.Count   `json:"mailbox"`        // sequence number of the mailbox record; 0 is none
	Published    bool        `json:"published"`      // its digest is on the chain
	Relays       []RelayLink `json:"relays"`
	Queued       int         `json:"queued"`   // messages that no relay stored yet
	Inbox        top.Count   `json:"inbox"`    // messages in the inbox
	Requests     int         `json:"requests"` // strangers who wait
	Held         *RelayHeld  `json:"held,omitempty"`
	Problem      string      `json:"problem,omitempty"` // what keeps it from its work, and the remedy
	Version      string      `json:"version"`
	UptimeMs     top.Count   `json:"uptime_ms"`
}

// A RelayLink is a relay that an agent uses.
type RelayLink struct {
	Node      top.NodeID `json:"node"`
	Name      string     `json:"name"`
	Addr      string     `json:"addr"`
	Connected bool       `json:"connected"`
	Receives  bool       `json:"receives"` // it is in our mailbox record
	Channel   *top.ID    `json:"channel,omitempty"`
	Cap       top.Amount `json:"cap,omitempty"`
	Spent     top.Amount `json:"spent,omitempty"` // acknowledged by recipients
	RTTMicros top.Count  `json:"rtt_us,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// A RelayHeld is what a provider holds for others.
type RelayHeld struct {
	Mailboxes int        `json:"mailboxes"`
	Messages  top.Count  `json:"messages"` // envelopes
	Bytes     top.Count  `json:"bytes"`
	Online    int        `json:"online"` // devices connected
	Channels  int        `json:"channels"`
	Earned    top.Amount `json:"earned"` // acknowledged by recipients, on open channels
}

// A Message is one message, received or sent.
type Message struct {
	Type     string      `json:"type"` // "message" for one received, "sent" for one sent
	Seq      top.Count   `json:"seq"`  // place in the inbox, or among those sent; from 1
	ID       string      `json:"id"`
	From     top.Address `json:"from,omitzero"`
	To       top.Address `json:"to,omitzero"`
	Name     string      `json:"name,omitempty"` // of a file
	Kind     string      `json:"kind"`           // "text" or "file"
	Size     top.Count   `json:"size"`           // of the body, bytes
	SHA256   top.ID      `json:"sha256"`         // of the body
	Text     *string     `json:"text,omitempty"` // the body, when it is text of at most 64 KiB
	Body     Bytes       `json:"body,omitempty"` // the body, when it is no text and at most 64 KiB
	Path     string      `json:"path,omitempty"` // where --save wrote it
	Sent     top.Time    `json:"sent"`
	Received *top.Time   `json:"received,omitempty"`
	State    string      `json:"state"`            // received: "new", "read", "request"; sent: "queued", "stored", "delivered", "read", "expired", "refused", "failed"
	Since    *top.Time   `json:"since,omitempty"`  // when the state was signed or reached
	Expiry   *top.Time   `json:"expiry,omitempty"` // of one sent
	Relay    *top.NodeID `json:"relay,omitempty"`
	Units    top.Count   `json:"units,omitempty"`
	Cost     top.Amount  `json:"cost,omitempty"`  // set aside; paid once it is delivered
	Done     top.Count   `json:"done,omitempty"`  // bytes of the body that are stored, while it is on its way
	Error    string      `json:"error,omitempty"` // why it waits, or failed
	Failure  top.Kind    `json:"failure,omitempty"`
}

// Text is the message as a line for people.
func (m Message) String() string {
	what := fmt.Sprintf("%s, %s bytes", m.Kind, m.Size)
	if m.Name != "" {
		what = m.Name + ", " + m.Size.String() + " bytes"
	}
	if m.Text != nil {
		what = *m.Text
	}
	if m.Path != "" {
		what += " -> " + m.Path
	}
	if m.Type == "message" {
		return fmt.Sprintf("%s %s: %s", m.Sent.Format(time.DateTime), m.From, what)
	}
	s := fmt.Sprintf("%s to %s: %s, %s", m.Sent.Format(time.DateTime), m.To, what, m.State)
	if m.Error != "" {
		s += ": " + m.Error
	}
	return s
}

// A SendRequest says how a body is sent.
type SendRequest struct {
	ID       string        // names the wish: the same id twice has the effect of one
	To       top.Address   //
	Name     string        // of a file; "" is none
	Hold     time.Duration // how long relays keep it for a recipient who is offline
	MaxSpend top.Amount    // most that it may cost; 0 is what the budget allows
	Lines    bool          // every line of the body is a message
	Wait     string        // "queued", "stored", "delivered" or "read": until when to answer
}

// Send sends a body and calls each with Message records, type "sent", as its
// state changes, until the state waited for. With Lines the records are those of
// the last line, whose state all have.
func (r *Relay) Send(ctx context.Context, q SendRequest, body io.Reader, each func(Message) error) error {
	v := url.Values{"to": {q.To.String()}, "hold_s": {strconv.Itoa(int(q.Hold / time.Second))}}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("id", q.ID)
	set("name", q.Name)
	set("wait", q.Wait)
	if q.MaxSpend > 0 {
		v.Set("max_spend", strconv.FormatUint(uint64(q.MaxSpend), 10))
	}
	if q.Lines {
		v.Set("lines", "1")
	}
	return r.c.Upload(ctx, "/v1/messages?"+v.Encode(), body, messages(each))
}

func messages(each func(Message) error) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var m Message
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("message record: %v: %w", err, top.ErrInvalid)
		}
		return each(m)
	}
}

// Messages calls each with every message of a box ("inbox", "requests" or
// "sent") after since, oldest first. With follow it goes on until ctx ends.
func (r *Relay) Messages(ctx context.Context, box string, since top.Count, follow bool, each func(Message) error) error {
	v := url.Values{"box": {box}, "since": {since.String()}}
	if follow {
		v.Set("follow", "1")
	}
	return r.c.Stream(ctx, "GET", "/v1/messages?"+v.Encode(), nil, messages(each))
}

// Message asks for one message, sent or received.
func (r *Relay) Message(ctx context.Context, id string) (m Message, err error) {
	return m, r.c.Get(ctx, "/v1/messages/"+url.PathEscape(id), &m)
}

// Body reads the body of a message received. The caller closes it.
func (r *Relay) Body(ctx context.Context, id string) (io.ReadCloser, error) {
	return r.c.Open(ctx, "/v1/messages/"+url.PathEscape(id)+"/body")
}

// Read says that a person has seen messages: their senders are told.
func (r *Relay) Read(ctx context.Context, ids []string) error {
	return r.c.Post(ctx, "/v1/read", map[string][]string{"ids": ids}, nil)
}

// A Correspondent is what an agent does with somebody's messages.
type Correspondent struct {
	Type     string      `json:"type"` // "correspondent"
	Address  top.Address `json:"address"`
	State    string      `json:"state"` // "allowed", "blocked" or "request"
	Messages int         `json:"messages,omitempty"`
	Since    *top.Time   `json:"since,omitempty"`
}

// Judge allows ("allowed") or blocks ("blocked") somebody's messages. What waits
// in requests from who is allowed moves to the inbox.
func (r *Relay) Judge(ctx context.Context, a top.Address, state string) (p Correspondent, err error) {
	return p, r.c.Post(ctx, "/v1/correspondents", Correspondent{Address: a, State: state}, &p)
}

// Correspondents lists who is allowed, blocked or asks.
func (r *Relay) Correspondents(ctx context.Context, each func(Correspondent) error) error {
	return stream(ctx, r.c, "/v1/correspondents", each)
}

// A RelayPeer is a peer on the mesh.
type RelayPeer struct {
	Type      string    `json:"type"` // "peer"
	Peer      string    `json:"peer"`
	Addr      string    `json:"addr"`
	Direction string    `json:"direction"` // "in" or "out"
	Relayed   bool      `json:"relayed"`
	RTTMicros top.Count `json:"rtt_us"`
	Since     *top.Time `json:"since,omitempty"`
}

// Peers lists the peers that are connected.
func (r *Relay) Peers(ctx context.Context, each func(RelayPeer) error) error {
	return stream(ctx, r.c, "/v1/peers", each)
}

// A Route is one way to somebody: a relay of the recipient's.
type Route struct {
	Type      string     `json:"type"` // "route"
	Node      top.NodeID `json:"node"`
	Name      string     `json:"name"`
	Addr      string     `json:"addr"`
	Price     top.Amount `json:"price"` // of a unit
	Hold      []Hold     `json:"hold"`
	Reachable bool       `json:"reachable"`
	RTTMicros top.Count  `json:"rtt_us,omitempty"`
	Preferred bool       `json:"preferred"` // the one that is used now
	Error     string     `json:"error,omitempty"`
}

// Routes lists the ways to a recipient, in the order in which they are tried;
// the zero address lists all relays of the registry.
func (r *Relay) Routes(ctx context.Context, to top.Address, each func(Route) error) error {
	path := "/v1/routes"
	if to != (top.Address{}) {
		path += "?to=" + to.String()
	}
	return stream(ctx, r.c, path, each)
}

// Status asks the daemon where it stands.
func (r *Relay) Status(ctx context.Context) (s RelayStatus, err error) {
	return s, r.c.Get(ctx, "/v1/status", &s)
}
