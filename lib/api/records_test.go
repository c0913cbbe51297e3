package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"top/lib/api"
	"top/lib/home"
	"top/lib/keys"
	"top/lib/pipe"
	"top/lib/receipt"
	"top/lib/top"
)

const (
	tree = "../.."
	page = "../../docs/records.md"
)

// A field is one field of a record or of an object inside one.
type field struct {
	name     string
	typ      string // as Go writes it, without a pointer
	optional bool
}

// forms are the JSON of a Go type, as the page names it, and what a line must
// then hold.
var forms = map[string]struct {
	name, pattern string
}{
	"string":              {"string", `"[^"]*"`},
	"bool":                {"bool", `true|false`},
	"int":                 {"number", `[0-9]+`},
	"uint32":              {"number", `[0-9]+`},
	"top.Amount":          {"string, nano", `"[0-9]+"`},
	"top.Count":           {"string, count", `"[0-9]+"`},
	"top.Height":          {"string, height", `"[0-9]+"`},
	"top.Time":            {"time", `"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z"`},
	"top.Address":         {"string, top1…", `"top1[0-9a-z]{58}"`},
	"top.NodeID":          {"string, topnode1…", `"topnode1[0-9a-z]{58}"`},
	"top.ValidatorID":     {"string, topval1…", `"topval1[0-9a-z]{58}"`},
	"top.ID":              {"string, 64 hex", `"[0-9a-f]{64}"`},
	"top.SessionID":       {"string, 32 hex", `"[0-9a-f]{32}"`},
	"top.ChainID":         {"string, top-…", `"top-[0-9a-f]{16}"`},
	"top.Kind":            {"string", `"[a-z-]+"`},
	"State":               {"string", `"(ok|warn|bad)"`},
	"Bytes":               {"base64url", `"[A-Za-z0-9_-]*"`},
	"[]string":            {"list of string", `\[.*\]|null`},
	"Header":              {"Header", `\{.*\}`},
	"[]Offer":             {"list of Offer", `\[.*\]|null`},
	"[]Hold":              {"list of Hold", `\[.*\]`},
	"[]VerbRecord":        {"list of Verb", `\[.*\]`},
	"[]ArgRecord":         {"list of Arg", `\[.*\]`},
	"[]FlagRecord":        {"list of Flag", `\[.*\]`},
	"[]ExitRecord":        {"list of Exit", `\[.*\]`},
	"[]RelayLink":         {"list of Link", `\[.*\]`},
	"RelayHeld":           {"Held", `\{.*\}`},
	"[]VPNHop":            {"list of Hop", `\[.*\]`},
	"[][]byte":            {"list of base64", `\[.*\]|null`},
	"session.MeterConfig": {"object", `\{.*\}`},
	"ast.MapType":         {"object", `\{.*\}`},
	"receipt string":      {"base64url", `"[A-Za-z0-9_-]+"`},
}

// objects are the objects inside records that the page describes, by their names
// in Go.
var objects = map[string]string{
	"Header": "Header", "Offer": "Offer", "Hold": "Hold",
	"RelayLink": "Link", "RelayHeld": "Held", "VPNHop": "Hop",
	"VerbRecord": "Verb", "ArgRecord": "Arg", "FlagRecord": "Flag", "ExitRecord": "Exit",
}

var quoted = regexp.MustCompile(`"([a-z][a-z0-9-]*)"`)

// structs finds the fields of every record in the tree, by the type that it says:
// its field Type names it in a comment. One that names several leaves each to who
// names that alone.
func structs(t *testing.T) map[string][]field {
	t.Helper()
	found, alone := map[string][]field{}, map[string]bool{}
	fset := token.NewFileSet()
	look := func(spec *ast.TypeSpec) {
		st, ok := spec.Type.(*ast.StructType)
		if !ok {
			return
		}
		fields, types := fieldsOf(t, st)
		if name, is := objects[spec.Name.Name]; is && len(types) == 0 {
			types = []string{name}
		}
		for _, name := range types {
			if found[name] == nil || len(types) == 1 && !alone[name] {
				found[name], alone[name] = fields, len(types) == 1
			}
		}
	}
	for _, part := range []string{"lib", "cmd"} {
		must(t, filepath.WalkDir(filepath.Join(tree, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			inAPI := file.Name.Name == "api" || file.Name.Name == "tool"
			ast.Inspect(file, func(n ast.Node) bool {
				// ledger and session have an Offer of their own, which is no record.
				if spec, ok := n.(*ast.TypeSpec); ok && (inAPI || objects[spec.Name.Name] == "") {
					look(spec)
				}
				return true
			})
			return nil
		}))
	}
	return found
}

// fieldsOf reads the fields that have a name in JSON, and the types that the
// comment of the field Type gives.
func fieldsOf(t *testing.T, st *ast.StructType) (fields []field, types []string) {
	for _, f := range st.Fields.List {
		if f.Tag == nil || len(f.Names) != 1 {
			continue
		}
		raw, err := strconv.Unquote(f.Tag.Value)
		must(t, err)
		name, options, _ := strings.Cut(reflect.StructTag(raw).Get("json"), ",")
		if name == "type" && f.Names[0].Name == "Type" {
			for _, m := range quoted.FindAllStringSubmatch(f.Comment.Text(), -1) {
				types = append(types, m[1])
			}
			continue
		}
		if name != "" {
			typ := strings.TrimPrefix(strings.TrimPrefix(goType(f.Type), "*"), "api.")
			if name == "receipt" {
				typ = "receipt " + typ
			}
			fields = append(fields, field{name, typ, options != ""})
		}
	}
	return fields, types
}

// goType is a type as Go writes it, for the few shapes that records have.
func goType(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return goType(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return "*" + goType(e.X)
	case *ast.ArrayType:
		return "[]" + goType(e.Elt)
	}
	return fmt.Sprintf("%T", e)
}

// A section is what the page says of one record or object.
type section struct {
	rows    []string // "name | JSON"
	blank   []string // names without a meaning
	example string   // the line; "" of an object
}

var row = regexp.MustCompile(`^\| ([a-z0-9_]+\??) \| ([^|]+) \| ?([^|]*) \|$`)

func sections(t *testing.T) map[string]*section {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	found := map[string]*section{}
	var at *section
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if heading, is := strings.CutPrefix(line, "### "); is {
			name := heading[strings.LastIndexByte(heading, ' ')+1:]
			if found[name] != nil {
				t.Errorf("%s: %s twice", page, name)
			}
			at = &section{}
			found[name] = at
		}
		if m := row.FindStringSubmatch(line); m != nil && at != nil && m[1] != "field" {
			at.rows = append(at.rows, m[1]+" | "+m[2])
			if strings.TrimSpace(m[3]) == "" {
				at.blank = append(at.blank, m[1])
			}
		}
		if strings.HasPrefix(line, "{") && at != nil {
			at.example = line
		}
	}
	return found
}

// Every record that the tree has is on the page with its fields, their JSON and
// their meaning, in their order; and the page has no other.
func TestThePageHasEveryField(t *testing.T) {
	code, page := structs(t), sections(t)
	if len(code) < 30 {
		t.Fatalf("%d records in the tree: the test looks in the wrong place", len(code))
	}
	for name, fields := range code {
		s := page[name]
		if s == nil {
			t.Errorf("%s is not on the page", name)
			continue
		}
		var want []string
		for _, f := range fields {
			form, known := forms[f.typ]
			if !known {
				t.Errorf("%s: %s is a %s: the page has no name for it", name, f.name, f.typ)
			}
			want = append(want, f.name+map[bool]string{true: "?"}[f.optional]+" | "+form.name)
		}
		if !slices.Equal(want, s.rows) {
			t.Errorf("%s: the page has\n %q, the code\n %q", name, s.rows, want)
		}
		if len(s.blank) > 0 {
			t.Errorf("%s: no meaning of %q", name, s.blank)
		}
	}
	for name := range page {
		if code[name] == nil {
			t.Errorf("the page has %s, and nothing in the tree is one", name)
		}
	}
}

// The line of each record has the fields of the code in their order, all that may
// not be absent among them, each in its form.
func TestEveryLineHasTheFormOfItsRecord(t *testing.T) {
	code := structs(t)
	for name, s := range sections(t) {
		if slices.Contains(slices.Collect(maps.Values(objects)), name) {
			continue
		}
		names, values, err := members([]byte(s.example))
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, s.example)
			continue
		}
		if len(names) == 0 || names[0] != "type" || string(values["type"]) != strconv.Quote(name) {
			t.Errorf("%s: does not begin with its type: %s", name, s.example)
			continue
		}
		names = names[1:]
		for _, f := range code[name] {
			if len(names) == 0 || names[0] != f.name {
				if !f.optional {
					t.Errorf("%s: %s is missing, or out of place", name, f.name)
				}
				continue
			}
			if p := forms[f.typ].pattern; !regexp.MustCompile("^(" + p + ")$").Match(values[f.name]) {
				t.Errorf("%s: %s is %s, want %s", name, f.name, values[f.name], p)
			}
			names = names[1:]
		}
		if len(names) > 0 {
			t.Errorf("%s: the code has no %q there", name, names)
		}
	}
}

// members are the members of an object, in their order.
func members(line []byte) (names []string, values map[string]json.RawMessage, err error) {
	if err := json.Unmarshal(line, &values); err != nil {
		return nil, nil, err
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return nil, nil, err
		}
		names = append(names, name.(string))
	}
	return names, values, nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// samples are a value of each record that this room can make.
func samples(t *testing.T) map[string]any {
	chain := top.ChainID{1, 2, 3, 4, 5, 6, 7, 8}
	alice, bob := top.Address(keys.FromSeed([32]byte{1}).Public()), top.Address(keys.FromSeed([32]byte{3}).Public())
	node := top.NodeID(keys.FromSeed([32]byte{2}).Public())
	at := api.Header{Height: 42, Time: top.UnixMilli(1_800_000_000_000), Hash: top.ID{0xaa}, Root: top.ID{0xbb}}
	when, later := at.Time, top.UnixMilli(1_800_000_120_000)
	tx, channel, digest := top.ID{0x77}, top.ID{0xcc}, top.ID{0xdd}
	proof, session := api.Bytes{1, 2, 3, 0xfe, 0xff}, top.SessionID{0x55}
	owed, before, text := top.Amount(90_000), 5*top.One, "hello"
	val := top.ValidatorID(alice)
	offer := api.Offer{Service: "relay", Unit: "message", Price: 10_000, Window: 64, Hold: []api.Hold{{Seconds: 3600, Factor: 1}}}
	wgKey := "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	hopAddr := "wg://bob.example:0/CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA?class=full&region=de"
	hop := api.VPNHop{
		Node: node, Name: "bob", Class: "full", Region: "de", Endpoint: "bob.example:0", Path: "direct", Carry: "plain", Channel: channel, Payer: alice, Session: session,
		Inner: []string{"100.64.7.9", "fd74:6f70:7670::9"}, DNS: []string{"100.64.0.1"}, MTU: 1420, HandshakeMs: 900, RTTMicros: 310, LossPpm: 250, UpKbps: 800, DownKbps: 12_000,
		Price: 1000, Paid: 17_000, Cap: 500_000_000, ChannelEnds: later, State: "carrying", LastAnswerMs: 40,
	}
	var rec receipt.Record
	raw, err := os.ReadFile("../receipt/testdata/receipt.ndjson")
	must(t, err)
	must(t, json.Unmarshal(raw, &rec))
	all := []any{
		api.Account{Type: "account", Address: alice, Exists: true, Index: 1, Balance: 1_250_000_000, Locked: top.One, Unlocking: 5, UnlockAt: &later, Nonce: 7, Window: 127, Allowance: 4096, Node: &node, Channels: 1, At: at, Proof: proof},
		api.Event{Type: "block", Height: 42, Time: when, Hash: at.Hash, Root: at.Root, Txs: 1},
		api.ChainStatus{Type: "chain-status", Chain: chain, Role: "validator", Height: 42, Time: when, Header: at.Hash, Root: at.Root, Genesis: digest, Peers: 3, Validators: 4, Addresses: []string{"/dns4/val0.example/tcp/0/p2p/12D3Koo"}, Consensus: "8fd2c0f9@val0.example:0", Earliest: 1, FeePerByte: 10, AccountFee: 100_000, Supply: 1_001_000 * top.One, Burned: 1810, Accounts: 2, TxKinds: []string{"transfer", "batch"}, Version: "dev", UptimeMs: 61_000},
		api.Channel{Type: "channel", Channel: channel, Exists: true, Payer: alice, PayerIndex: 0, Provider: bob, ProvIndex: 1, Node: &node, Cap: 100_000_000, Paid: 90_000, Seq: 3, Opened: 40, Expiry: later, ExpiryHeight: 140, At: at, Proof: proof},
		api.Entry{Type: "entry", Account: alice, Seq: 2, Tx: tx, Kind: "transfer", Way: "out", Amount: 1_250_000_000, Fee: 1810, Peer: &bob, OK: true, Height: 42, Time: when},
		pipe.Gap{Type: "gap", Lost: 12},
		api.LightBlock{Type: "light-block", Height: 42, Block: proof},
		api.Node{Type: "node", Node: node, Exists: true, Owner: bob, OwnerIdx: 1, Name: "bob", Addrs: []string{"/dns4/bob.example/tcp/0"}, Offers: []api.Offer{offer}, Capacity: 100_000, Stake: top.One, At: at, Proof: proof},
		api.Params{Type: "params", Chain: chain, Kinds: []string{"transfer", "batch"}, FeePerByte: 10, AccountFee: 100_000, AllowanceBytes: 4096, UnlockSeconds: 604_800, DeadlineSec: 600, DeadlineBlocks: 100, EpochBlocks: 1000, MaxValidators: 100, MinSelfStake: 1000 * top.One, UnbondSeconds: 1_814_400, YieldPPM: 50_000, DoubleSignPPM: 50_000, DowntimePPM: 100, DowntimeEpochs: 12, JailSeconds: 600, VoteEpochs: 100, Deposit: 100 * top.One, Supply: 1_001_000 * top.One, Burned: 1810, Accounts: 2, At: at, Proof: proof},
		api.Dial{Type: "dial", Addr: "192.0.2.7:4001"},
		api.Proposal{Type: "proposal", Number: 1, Proposer: alice, Name: "fee_per_byte", Value: 20, Deposit: 100 * top.One, Ends: 9, Epoch: 7, Next: 1000, Yes: 300 * top.One, No: 100 * top.One, All: 900 * top.One, At: at, Proof: proof},
		api.Stake{Type: "stake", Account: alice, State: "moving", Validator: val, To: top.ValidatorID(node), Amount: 50 * top.One, Free: &later, Lot: digest, At: at, Proof: proof, Pool: proof},
		api.Validator{Type: "validator", Validator: val, Exists: true, Owner: alice, Name: "paris", Commission: 500, Staked: 300 * top.One, Power: 300, Seen: 7, Jailed: true, JailedUntil: &later, Slashed: top.One, At: at, Proof: proof},
		api.ValidatorKey{Type: "validator-key", Validator: val, Chain: chain, Owner: alice, Sig: proof},
		api.SignedTx{Type: "signed-tx", ID: tx, Kind: "transfer", Expiry: later, Raw: proof},
		api.Submitted{Type: "submitted", ID: tx},
		api.Tx{Type: "tx", ID: tx, Kind: "transfer", From: alice, Height: 42, Index: 0, Time: when, OK: true, Fee: 1810, Size: 181, Proof: proof, Raw: proof},
		api.Verified{Type: "verified", Chain: chain, From: 1, Height: 42, Root: at.Root, Signatures: true, Txs: 7, Failed: 1, Supply: 1_001_000 * top.One, Burned: 1810, Accounts: 2},
		api.Batch{Type: "batch", ID: "payroll", State: "final", Digest: digest, Count: 30_000, Total: 45 * top.One, Fee: 1_600_000, Parts: 6, Done: 6, Paid: 45 * top.One},
		api.BatchPart{Type: "batch-part", ID: "payroll", Part: 1, Parts: 6, Tx: tx, Count: 5000, Amount: 7 * top.One, Fee: 270_000, Height: 42, Time: when},
		api.Bill{Type: "bill", Spent: 90_000, Total: 90_000, Receipts: 1},
		api.BillChannel{Type: "bill-channel", Chain: chain, Channel: channel, Side: "spent", Owed: 90_000, Onchain: &owed},
		api.BillRow{Type: "bill-row", Kind: "session", Side: "spent", Chain: chain, Channel: channel, Payer: alice, Node: node, Session: session, Service: "relay", Unit: "message", Units: 9, Price: 10_000, Amount: 90_000},
		api.Budget{Type: "budget", Service: "relay", PerDay: 1_500_000_000, PerPeer: 200_000_000, Spent: 100_000_000},
		home.Contact{Type: "contact", Name: "bob", Address: bob},
		api.BatchRecord{Type: "pay", Address: bob, Amount: 1_250_000_000},
		api.Payment{Type: "payment", ID: "invoice-17", Kind: "transfer", State: "dry-run", To: &bob, Amount: top.One, Fee: 1810, NewAccount: true, AccountFee: 100_000, Size: 181, Balance: before, After: 3_999_998_190},
		api.Payer{Type: "payer", ID: "hop-1", Index: 7, Address: bob, State: "open", Chain: chain, Service: "vpn", Provider: alice, Node: node, Channel: &channel, Cap: 100_000_000, LastsMs: 3_600_000, Expiry: &later, Funded: 100_120_000},
		rec,
		api.Settled{Type: "settled", State: "paid", Channel: channel, Owed: 90_000, Paid: 90_000, Fee: 3950, Total: 90_000, Tx: &tx, Height: 42},
		api.MessageSignature{Type: "signature", Address: alice, Digest: digest, Sig: proof},
		api.SignedEntry{Type: "signed", Seq: 1, Time: when, What: "voucher", Service: "relay", Peer: &node, Channel: &channel, Number: 3, Exposed: 10_230_000, Charged: 5_115_000, Digest: digest, Sig: proof},
		api.SignAnswer{Type: "signed-certificate", Body: proof},
		api.SignAnswer{Type: "signed-mailbox", Body: proof},
		api.SignAnswer{Type: "signed-ticket", Body: proof},
		api.SignAnswer{Type: "signed-voucher", Body: proof},
		api.RelayStatus{Type: "relay-status", Address: alice, Chain: chain, Device: "a09a", Peer: "12D3Koo", Addrs: []string{"/dns4/r.example/tcp/0/p2p/12D3Koo"}, Reachability: "unknown", Providing: true, Node: &node, Mailbox: 1, Published: true, Relays: []api.RelayLink{{Node: node, Name: "r", Addr: "/dns4/r.example/tcp/0", Connected: true, Receives: true, Channel: &channel, Cap: 500_000_000, Spent: 20_000, RTTMicros: 310}}, Inbox: 2, Held: &api.RelayHeld{Mailboxes: 2, Messages: 3, Bytes: 768, Online: 1, Channels: 1, Earned: 20_000}, Version: "dev", UptimeMs: 61_000},
		api.Message{Type: "message", Seq: 1, ID: "note-1", From: alice, Kind: "text", Size: 5, SHA256: digest, Text: &text, Sent: when, Received: &later, State: "new"},
		api.Message{Type: "sent", Seq: 1, ID: "note-1", To: bob, Kind: "text", Size: 5, SHA256: digest, Text: &text, Sent: when, State: "delivered", Since: &later, Expiry: &later, Relay: &node, Units: 1, Cost: 20_000},
		api.Correspondent{Type: "correspondent", Address: alice, State: "request", Messages: 2, Since: &when},
		api.RelayPeer{Type: "peer", Peer: "12D3Koo", Addr: "/dns4/r.example/tcp/0", Direction: "out", RTTMicros: 310, Since: &when},
		api.Route{Type: "route", Node: node, Name: "r", Addr: "/dns4/r.example/tcp/0", Price: 10_000, Hold: []api.Hold{{Seconds: 86_400, Factor: 1}}, Reachable: true, RTTMicros: 310, Preferred: true},
		api.VPNStatus{Type: "vpn-status", Role: "client", State: "up", Chain: chain, Socks: "127.0.0.1:0", Hops: []api.VPNHop{hop}, Version: "dev", UptimeMs: 61_000},
		api.VPNExit{Type: "exit", Node: node, Name: "bob", Addr: hopAddr, Carry: []string{"plain"}, Class: "full", Region: "de", Price: 1000, PerGiB: 16_384_000, Capacity: 100_000, Reachable: true, RTTMicros: 310, Score: 66, Uses: 1},
		api.VPNMeter{Type: "vpn-meter", Role: "client", Time: when, Session: session, Channel: channel, Node: node, Payer: alice, Up: 65_536, Down: 1_048_576, Acknowledged: 1_114_112, Units: 17, Unsolicited: 420, Duplicate: 1400, Lost: 2800, Control: 9000, Price: 1000, Owed: 17_000, State: "serving"},
		api.VPNPeer{Type: "vpn-peer", Node: node, Key: wgKey, Inner: []string{"100.64.7.9/32", "fd74:6f70:7670::9/128"}, DNS: []string{"100.64.0.1"}, MTU: 1420, Exit: wgKey, At: "bob.example:0", Channel: channel, Prepaid: top.One, Used: 17_000},
		api.WalletStatus{Type: "wallet-status", Address: alice, Chain: chain, Batches: []string{"payroll"}, Signed: 1, Head: digest, Version: "dev", UptimeMs: 61_000},
	}
	by := map[string]any{}
	for _, v := range all {
		by[reflect.ValueOf(v).FieldByName("Type").String()] = v
	}
	return by
}

// foreign are the records of rooms that this one may not import: their lines are
// checked by form alone.
var foreign = []string{"bench", "init", "join", "ready", "balance", "wallet", "check", "description", "trace", "log-entry", "vpn-account"}

// Each record is written as the page shows it, and read back from it. UPDATE=1
// writes the page's lines anew.
func TestGoldenLines(t *testing.T) {
	code := samples(t)
	for name, s := range sections(t) {
		v, ok := code[name]
		if !ok {
			if s.example != "" && !slices.Contains(foreign, name) {
				t.Errorf("%s: nobody makes one", name)
			}
			continue
		}
		line, err := pipe.Line(v)
		must(t, err)
		got := strings.TrimSuffix(string(line), "\n")
		if os.Getenv("UPDATE") != "" {
			update(t, s.example, got, name)
			continue
		}
		if got != s.example {
			t.Errorf("%s is written\n %s\nthe page has\n %s", name, got, s.example)
		}
		back := reflect.New(reflect.TypeOf(v))
		if err := json.Unmarshal([]byte(s.example), back.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(back.Elem().Interface(), v) {
			t.Errorf("%s is read back as\n %+v, was\n %+v", name, back.Elem().Interface(), v)
		}
	}
}

// update puts a line in the place of another, below the heading of its record.
func update(t *testing.T, old, line, name string) {
	text, err := os.ReadFile(page)
	must(t, err)
	before, after, ok := strings.Cut(string(text), name+"\n\n")
	if !ok {
		must(t, errors.New(name+" has no heading"))
	}
	must(t, os.WriteFile(page, []byte(before+name+"\n\n"+strings.Replace(after, "\n"+old+"\n", "\n"+line+"\n", 1)), 0o644))
}
