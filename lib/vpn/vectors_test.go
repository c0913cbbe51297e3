package vpn

import (
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/session"
	"top/lib/top"
	"top/lib/wg"
)

// A message as the page names it, and what reads it back.
type vector struct {
	name string
	text string
	back func() string // the same, decoded and encoded again; nil where there is none
}

func vectors() []vector {
	chain, channel, id := top.ChainID{1, 2, 3, 4, 5, 6, 7, 8}, top.ID{0xcc}, top.SessionID{0x55}
	node := keys.FromSeed([32]byte{2})
	client := wg.FromSeed([32]byte{9}).Public()
	exit := KeyOf(node).Public()
	in4, dns := netip.AddrFrom4([4]byte{100, 64, 7, 9}), netip.AddrFrom4([4]byte{100, 64, 0, 1})
	claim := session.Claim{Voucher: session.Voucher{Chain: chain, Channel: channel, Seq: 3, Amount: 90_000}}
	at := Address{Carry: WSS, Host: "exit.example", Port: "443", Key: exit, Class: "full", Region: "de", Server: "www.example", Node: top.NodeID(node.Public())}
	all := []vector{
		{"vpn-key", hex.EncodeToString(exit[:]), nil},
		{"vpn-inner", exit.Inner().String(), nil},
		{"vpn-inner4", exit.Inner4().String(), nil},
		{"vpn-address", at.String(), func() string {
			a, err := ParseAddress(at.String())
			if err != nil {
				return err.Error()
			}
			return a.String()
		}},
	}
	put := func(name string, m interface{ encode() []byte }, decode func([]byte) ([]byte, error)) {
		b := m.encode()
		all = append(all, vector{name, hex.EncodeToString(b), func() string {
			back, err := decode(b)
			if err != nil {
				return err.Error()
			}
			return hex.EncodeToString(back)
		}})
	}
	told := func(b []byte) ([]byte, error) { var m told; err := m.decode(b); return m.encode(), err }
	put("vpn-open", opening{Ref: 7, Key: client, Ticket: []byte{1, 2, 3}}, func(b []byte) ([]byte, error) { var m opening; err := m.decode(b); return m.encode(), err })
	put("vpn-accept", accepted{Ref: 7, Ticket: []byte{1, 2, 3}, Inner4: in4, DNS: []netip.Addr{dns, exit.Inner()}, MTU: 1420, Class: "full"}, func(b []byte) ([]byte, error) { var m accepted; err := m.decode(b); return m.encode(), err })
	put("vpn-voucher", toldOf(mVoucher, id, []byte{4, 5, 6}), told)
	put("vpn-taken", taken{Session: id, Seq: 3, Claims: []session.Claim{claim}}, func(b []byte) ([]byte, error) { var m taken; err := m.decode(b); return m.encode(), err })
	put("vpn-tick", ticking{Session: id, Ticks: []session.Tick{{Session: id, I: 4, W: top.ID{0x99}}}, Up: 300, Sent: 70_000, Got: 69_000}, func(b []byte) ([]byte, error) { var m ticking; err := m.decode(b); return m.encode(), err })
	put("vpn-state", state{Nonce: 9, Session: id, Up: 300, Down: 70_000, Limit: 262_144, Units: 1, Why: "why"}, func(b []byte) ([]byte, error) { var m state; err := m.decode(b); return m.encode(), err })
	put("vpn-ping", ping{Nonce: 9, Session: id}, func(b []byte) ([]byte, error) { var m ping; err := m.decode(b); return m.encode(), err })
	put("vpn-receipt", toldOf(mReceipt, id, nil), told)
	put("vpn-bye", toldOf(mBye, id, nil), told)
	put("vpn-fault", fault{Ref: 7, Kind: "denied", Message: "no"}, func(b []byte) ([]byte, error) { var m fault; err := m.decode(b); return m.encode(), err })
	return all
}

func toldOf(kind byte, id top.SessionID, body []byte) told {
	return told{Kind: kind, Session: id, Body: body}
}

// The vectors of docs/wire.md, "Tunnel", are what the code makes, and are read back as
// they were.
func TestVectors(t *testing.T) {
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), "```vectors lib/vpn\n")
	block, after, _ := strings.Cut(rest, "```")
	var want strings.Builder
	for _, v := range vectors() {
		want.WriteString(v.name + strings.Repeat(" ", max(1, 28-len(v.name))) + " " + v.text + "\n")
		if v.back == nil {
			continue
		}
		if got := v.back(); got != v.text {
			t.Errorf("%s is read back as\n %s, was\n %s", v.name, got, v.text)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile("../../docs/wire.md", []byte(before+"```vectors lib/vpn\n"+want.String()+"```"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if block != want.String() {
		t.Errorf("the page has\n%s, the code makes\n%s", block, want.String())
	}
}
