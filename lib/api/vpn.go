package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"top/lib/sock"
	"top/lib/top"
)

// VPN is a client of vpn.sock: an exit that sells, or a tunnel that is up.
type VPN struct{ c *sock.Client }

// NewVPN speaks to the daemon behind c.
func NewVPN(c *sock.Client) *VPN { return &VPN{c} }

// A VPNStatus says what a VPN daemon is and where it stands.
type VPNStatus struct {
	Type          string      `json:"type"` // "vpn-status"
	Role          string      `json:"role"` // "exit" or "client"
	State         string      `json:"state"`
	Chain         top.ChainID `json:"chain"`
	Node          *top.NodeID `json:"node,omitempty"`  // of an exit
	Key           string      `json:"key,omitempty"`   // its WireGuard public key, base64
	Addrs         []string    `json:"addrs,omitempty"` // to register
	Class         string      `json:"class,omitempty"`
	Policy        string      `json:"policy,omitempty"`
	Region        string      `json:"region,omitempty"`
	Price         top.Amount  `json:"price,omitempty"`
	AllowLoopback bool        `json:"allow_loopback"` // this machine's own addresses are served: for tests
	Interface     string      `json:"interface,omitempty"`
	Socks         string      `json:"socks,omitempty"`
	KillSwitch    bool        `json:"kill_switch"`
	Spared        []string    `json:"spared,omitempty"`    // IP:PORT that is reached beside the tunnel: the chain daemon's peers
	Peers         int         `json:"peers,omitempty"`     // that pay
	Strangers     int         `json:"strangers,omitempty"` // that shook hands and do not
	Earned        top.Amount  `json:"earned,omitempty"`    // on channels that are open
	Hops          []VPNHop    `json:"hops,omitempty"`
	Shows         string      `json:"shows,omitempty"`   // what the chain shows of the hops
	Problem       string      `json:"problem,omitempty"` // what keeps it from its work, and the remedy
	Version       string      `json:"version"`
	UptimeMs      top.Count   `json:"uptime_ms"`
}

// A VPNHop is one node of the path, the entry first.
type VPNHop struct {
	Node         top.NodeID    `json:"node"`
	Name         string        `json:"name"`
	Class        string        `json:"class"`
	Region       string        `json:"region"`
	Endpoint     string        `json:"endpoint"`
	Path         string        `json:"path"`  // "direct", or "relayed through" whom
	Carry        string        `json:"carry"` // "plain", "quic" or "wss"
	Channel      top.ID        `json:"channel"`
	Payer        top.Address   `json:"payer"`
	Session      top.SessionID `json:"session"`
	Inner        []string      `json:"inner"` // our addresses within the tunnel
	DNS          []string      `json:"dns"`
	MTU          int           `json:"mtu"`
	HandshakeMs  top.Count     `json:"handshake_ms"` // age of the last handshake
	RTTMicros    top.Count     `json:"rtt_us"`
	LossPpm      int           `json:"loss_ppm"`  // of what the node sent
	UpKbps       top.Count     `json:"up_kbps"`   // over the last seconds
	DownKbps     top.Count     `json:"down_kbps"` //
	Price        top.Amount    `json:"price"`     // of 64 KiB
	Paid         top.Amount    `json:"paid"`      // in this session
	Cap          top.Amount    `json:"cap"`       // of the channel
	ChannelEnds  top.Time      `json:"channel_ends"`
	State        string        `json:"state"`
	Problem      string        `json:"problem,omitempty"`
	AllowsOwn    bool          `json:"allow_loopback,omitempty"`
	MostPaid     top.Amount    `json:"max_spend,omitempty"`
	LastAnswerMs top.Count     `json:"last_answer_ms"` // since the node last spoke
}

// A VPNExit is a node that sells tunnels, as the registry and a look at it say.
type VPNExit struct {
	Type      string     `json:"type"` // "exit"
	Node      top.NodeID `json:"node"`
	Name      string     `json:"name"`
	Addr      string     `json:"addr"`
	Carry     []string   `json:"carry"`
	Class     string     `json:"class"`
	Region    string     `json:"region"`
	Price     top.Amount `json:"price"` // of 64 KiB
	PerGiB    top.Amount `json:"per_gib"`
	Capacity  top.Count  `json:"capacity_kbps"` // claimed
	Reachable bool       `json:"reachable"`
	RTTMicros top.Count  `json:"rtt_us,omitempty"` // of an answer through a fresh tunnel
	Score     int        `json:"score"`            // 0 to 100: what this home saw of it
	Uses      int        `json:"uses"`             // on which the score rests
	Error     string     `json:"error,omitempty"`
}

// A VPNMeter is what was counted in one session, by the end that says it.
type VPNMeter struct {
	Type         string        `json:"type"` // "vpn-meter"
	Role         string        `json:"role"` // "exit" or "client"
	Time         top.Time      `json:"time"`
	Session      top.SessionID `json:"session"`
	Channel      top.ID        `json:"channel"`
	Node         top.NodeID    `json:"node"`
	Payer        top.Address   `json:"payer"`
	Up           top.Count     `json:"up"`           // bytes that the consumer sent and the exit has
	Down         top.Count     `json:"down"`         // bytes for the consumer: of an exit sent, of a client received
	Acknowledged top.Count     `json:"acknowledged"` // bytes for which the consumer pays
	Units        top.Count     `json:"units"`        // of 64 KiB, paid
	Unsolicited  top.Count     `json:"unsolicited"`  // bytes, not paid and not delivered
	Duplicate    top.Count     `json:"duplicate"`    // bytes, delivered and not paid
	Lost         top.Count     `json:"lost"`         // bytes on the way, not paid
	Control      top.Count     `json:"control"`      // bytes of tickets, ticks and vouchers, not paid
	Held         top.Count     `json:"held"`         // bytes that wait for a tick
	Dropped      top.Count     `json:"dropped"`      // bytes for which no tick came
	Price        top.Amount    `json:"price"`
	Owed         top.Amount    `json:"owed"` // of this session
	Unverified   bool          `json:"unverified,omitempty"`
	State        string        `json:"state"` // "serving", "waiting for a tick", "over"
}

// String is the counters as a line for people.
func (m VPNMeter) String() string {
	s := fmt.Sprintf("%s  up %s  down %s  acknowledged %s  units %s  %s TOP  %s", m.Session, m.Up, m.Down, m.Acknowledged, m.Units, m.Owed, m.State)
	if m.Unverified {
		s += "  unverified"
	}
	return s
}

// A VPNPeer asks an exit to serve a stock WireGuard client for as long as a channel
// pays.
type VPNPeer struct {
	Type    string     `json:"type"` // "vpn-peer"
	Node    top.NodeID `json:"node"`
	Key     string     `json:"key"` // of the client
	Inner   []string   `json:"inner"`
	DNS     []string   `json:"dns"`
	MTU     int        `json:"mtu"`
	Exit    string     `json:"exit"` // its public key
	At      string     `json:"endpoint"`
	Channel top.ID     `json:"channel"`
	Prepaid top.Amount `json:"prepaid"`
	Used    top.Amount `json:"used"`
}

// Status asks where the daemon stands.
func (v *VPN) Status(ctx context.Context) (s VPNStatus, err error) {
	return s, v.c.Get(ctx, "/v1/status", &s)
}

// Meters calls each with the counters of every session; with every > 0 again and
// again, until ctx ends.
func (v *VPN) Meters(ctx context.Context, every time.Duration, each func(VPNMeter) error) error {
	path := "/v1/meters"
	if every > 0 {
		path += fmt.Sprintf("?every_ms=%d", every.Milliseconds())
	}
	return v.c.Stream(ctx, "GET", path, nil, func(raw json.RawMessage) error {
		var m VPNMeter
		if err := json.Unmarshal(raw, &m); err != nil {
			return err
		}
		return each(m)
	})
}

// Down asks a tunnel to end, and lifts its kill switch.
func (v *VPN) Down(ctx context.Context) error { return v.c.Post(ctx, "/v1/down", nil, nil) }

// String is the exit as a line for people.
func (e VPNExit) String() string {
	state := fmt.Sprintf("%.1f ms", float64(e.RTTMicros)/1000)
	if !e.Reachable {
		state = e.Error
	}
	return fmt.Sprintf("%s  %-12s %-9s %-8s %s TOP/GiB  %d kbit/s claimed  score %d/%d  %s  %s", e.Node, e.Name, e.Class, e.Region, e.PerGiB, e.Capacity, e.Score, e.Uses, strings.Join(e.Carry, ","), state)
}
