package scripts

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/top"
)

const fileSize = 50 << 20

// relay is a client of a home's messaging agent.
func (n *localnet) relay(who string) *api.Relay {
	path, err := n.home(who).Sock("relay")
	if err != nil {
		n.t.Fatal(err)
	}
	return api.NewRelay(sock.Dial(path, "top-relay serve"))
}

// relayArgs is how localnet runs the messaging agent of a home.
func (n *localnet) relayArgs(who string) []string {
	if listen, err := os.ReadFile(n.home(who).Path("listen")); err == nil {
		return []string{"serve", "--provide", "--listen", strings.TrimSpace(string(listen))}
	}
	args := []string{"serve"}
	for _, r := range []string{"relay1", "relay2"} {
		s, err := n.relay(r).Status(n.t.Context())
		if err == nil && s.Node != nil {
			args = append(args, "--relay", s.Node.String())
		}
	}
	return args
}

func (n *localnet) relayLock(who string) string { return n.home(who).Path("run", "relay.sock.lock") }

// restart kills a messaging agent with -9 and starts it again.
func (n *localnet) restart(who string) *exec.Cmd {
	args := n.relayArgs(who)
	n.kill(n.relayLock(who))
	return n.serve(who, "top-relay", args...)
}

// file is a file of random bytes, and its digest.
func file(t *testing.T, size int) (path string, sum top.ID) {
	t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, sha256.Sum256(b)
}

// got waits until a home's inbox has a message, and checks that its body is whole,
// here once, and that nothing of the inbox is there twice.
func (n *localnet) got(who, id string, sum top.ID) {
	n.t.Helper()
	n.eventually(who+" has "+id, func() bool {
		m, err := n.relay(who).Message(n.t.Context(), id)
		return err == nil && m.Type == "message"
	})
	seen := map[string]bool{}
	err := n.relay(who).Messages(n.t.Context(), "inbox", 0, false, func(m api.Message) error {
		if seen[m.ID] {
			n.t.Errorf("%s has %s twice", who, m.ID)
		}
		seen[m.ID] = true
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	body, err := n.relay(who).Body(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		n.t.Fatal(err)
	}
	if top.ID(h.Sum(nil)) != sum {
		n.t.Errorf("%s: the body of %s is another", who, id)
	}
}

// Each daemon that takes part in the transfer of a large file is killed with -9 in
// the middle of it: the file arrives whole and once.
func TestFaultKillInTheMiddleOfAFile(t *testing.T) {
	n := start(t)
	for round := range rounds(t) {
		for _, who := range []string{"relay1", "bob", "alice", "alice's wallet", "alice's chain", "relay1's chain"} {
			t.Run(fmt.Sprintf("%s %d", who, round), func(t *testing.T) {
				id := strings.NewReplacer(" ", "-", "'", "").Replace(fmt.Sprintf("%s-%d", who, round))
				path, sum := file(t, fileSize)
				n.run("alice", "top-relay", "send", "--to", "bob", "--id", id, "--wait", "queued", path)
				n.eventually("some of it is there", func() bool {
					m, err := n.relay("alice").Message(t.Context(), id)
					return err == nil && (m.Done > 0 || m.State != "queued")
				})
				switch of, daemon, _ := strings.Cut(who, "'s "); daemon {
				case "wallet":
					n.kill(n.home(of).Path("wallet", "lock"))
					n.agent(of)
				case "chain":
					n.kill(n.home(of).Path("chain", "lock"))
					n.serve(of, "top-chain", "serve")
				default:
					n.restart(of)
				}
				n.got("bob", id, sum)
				n.run("alice", "top-relay", "send", "--to", "bob", "--id", id, "--wait", "delivered", "--timeout", "50s", path)
			})
		}
		n.accounts()
	}
}

// accounts settles with both relays and compares what everybody says.
func (n *localnet) accounts() {
	n.t.Helper()
	earned := top.Amount(0)
	for _, r := range []string{"relay1", "relay2"} {
		last := top.Amount(0)
		n.eventually("the receipts are written", func() bool {
			before := last
			last = n.receipts(r)
			s, err := n.relay(r).Status(n.t.Context())
			return err == nil && s.Held != nil && s.Held.Earned <= last && before == last
		})
		earned += last
		n.settle(r)
		again := n.settle(r)
		if strings.Contains(again, `"state":"paid"`) {
			n.t.Errorf("%s settled twice: %s", r, again)
		}
	}
	bill := n.run("alice", "top-wallet", "bill", "--json")
	n.eventually("alice knows what she spent", func() bool {
		bill = n.run("alice", "top-wallet", "bill", "--json")
		return strings.Contains(bill, fmt.Sprintf(`"type":"bill","spent":"%d"`, uint64(earned)))
	})
}

// receipts is what the receipts of a relay come to.
func (n *localnet) receipts(who string) (sum top.Amount) {
	n.t.Helper()
	for line := range strings.Lines(n.run(who, "top-prove", "receipts", "--json")) {
		var r struct{ Amount top.Amount }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			n.t.Fatal(err)
		}
		sum += r.Amount
	}
	return sum
}

// settle pipes receipts into the wallet.
func (n *localnet) settle(who string) string {
	n.t.Helper()
	receipts := n.command(who, "top-prove", "receipts", "--json")
	verify := n.command(who, "top-prove", "verify", "--json", "-")
	settle := n.command(who, "top-wallet", "settle", "--json", "-")
	for _, p := range [][2]*exec.Cmd{{receipts, verify}, {verify, settle}} {
		out, err := p[0].StdoutPipe()
		if err != nil {
			n.t.Fatal(err)
		}
		p[1].Stdin = out
	}
	for _, c := range []*exec.Cmd{receipts, verify} {
		if err := c.Start(); err != nil {
			n.t.Fatal(err)
		}
	}
	out, err := settle.Output()
	for _, c := range []*exec.Cmd{verify, receipts} {
		if e := c.Wait(); e != nil {
			n.t.Error(e)
		}
	}
	if err != nil {
		n.t.Fatalf("settle of %s: %v", who, err)
	}
	return string(out)
}

// A settlement that is killed with -9, verb and wallet and chain client, pays once.
func TestFaultKillInASettlement(t *testing.T) {
	n := start(t)
	for round := range rounds(t) {
		n.run("alice", "top-relay", "send", "--to", "bob", "--text", "pay me", "--wait", "delivered", "--timeout", "30s")
		n.eventually("a receipt", func() bool { return n.receipts("relay1") == top.Amount(20_000*(round+1)) })
		dir := t.TempDir()
		list := filepath.Join(dir, "receipts")
		if err := os.WriteFile(list, []byte(n.run("relay1", "top-prove", "receipts", "--json")), 0o600); err != nil {
			t.Fatal(err)
		}
		verb := n.command("relay1", "top-wallet", "settle", "--json", list)
		if err := verb.Start(); err != nil {
			t.Fatal(err)
		}
		n.kill(n.home("relay1").Path("chain", "lock"))
		verb.Process.Kill()
		verb.Wait()
		n.serve("relay1", "top-chain", "serve")
		n.eventually("it is settled", func() bool {
			out, err := n.try("relay1", "top-wallet", "settle", "--json", list)
			return err == nil && strings.Contains(out, fmt.Sprintf(`"total":"%d"`, 20_000*(round+1)))
		})
	}
}

// A relay that is gone for good: what lies there goes to the other, and arrives
// once.
func TestFaultRelayGoneForGood(t *testing.T) {
	n := start(t)
	args := n.relayArgs("bob")
	n.kill(n.relayLock("bob"))
	path, sum := file(t, 3<<20)
	n.run("alice", "top-relay", "send", "--to", "bob", "--id", "lost", "--wait", "stored", "--timeout", "30s", path)
	n.kill(n.relayLock("relay1"))
	n.serve("bob", "top-relay", args...)
	n.got("bob", "lost", sum)
	n.run("alice", "top-relay", "send", "--to", "bob", "--id", "lost", "--wait", "delivered", "--timeout", "50s", path)
	if got := n.receipts("relay1"); got != 0 {
		t.Errorf("the relay that is gone earned %s", got)
	}
}

// A relay whose disk is full stops with the remedy; what it held and what comes
// goes by the other, and it comes back when there is room again.
func TestFaultDiskFullUnderARelay(t *testing.T) {
	n := start(t)
	args, bobs := n.relayArgs("relay1"), n.relayArgs("bob")
	for round := range rounds(t) {
		n.kill(n.relayLock("bob")) // so that relays write
		n.kill(n.relayLock("relay1"))
		var stderr bytes.Buffer
		cmd := n.limited("relay1", 512, append([]string{"top-relay"}, args...)...)
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		n.eventually("alice sees the relay, or its end", func() bool {
			s, err := n.relay("alice").Status(t.Context())
			return len(ended) > 0 || err == nil && slices.ContainsFunc(s.Relays, func(l api.RelayLink) bool { return l.Name == "relay1" && l.Connected })
		})
		var sums []top.ID
		var err error
		id := func(i int) string { return fmt.Sprintf("full-%d-%d", round, i) }
		for over := false; !over; {
			path, sum := file(t, 3<<20)
			n.run("alice", "top-relay", "send", "--to", "bob", "--id", id(len(sums)), "--wait", "stored", "--timeout", "50s", path)
			select {
			case err = <-ended:
				over = true
			default:
				if over = len(sums) == 50; over {
					t.Fatal("the relay takes what its disk cannot")
				}
			}
			sums = append(sums, sum)
		}
		if exitCode(err) != 1 || !strings.Contains(stderr.String(), "free some space") {
			t.Errorf("a relay with a full disk: %v, %s", err, stderr.String())
		}
		n.serve("bob", "top-relay", bobs...)
		for i, sum := range sums {
			n.got("bob", id(i), sum)
		}
		n.serve("relay1", "top-relay", args...)
	}
}

// While the chain stands still messages go on, up to the cap of the channel.
func TestFaultChainHalted(t *testing.T) {
	n := start(t)
	n.run("alice", "top-relay", "send", "--to", "bob", "--text", "before", "--wait", "delivered", "--timeout", "30s")
	n.kill(n.home("val2").Path("chain", "lock"))
	n.kill(n.home("val3").Path("chain", "lock"))
	path, sum := file(t, 5<<20)
	n.run("alice", "top-relay", "send", "--to", "bob", "--id", "halted", "--wait", "delivered", "--timeout", "30s", path)
	n.got("bob", "halted", sum)
	n.serve("val2", "top-chain", "serve")
	n.serve("val3", "top-chain", "serve")
	n.eventually("the relay is paid", func() bool {
		_, err := n.try("relay1", "top-wallet", "settle", "--json", string(n.home("relay1").Path("receipts", "relay.ndjson")))
		return err == nil
	})
}

// What is sent shows nowhere at a relay: not on its disk, in its log or in its
// memory.
func TestDenyTheRelayTheText(t *testing.T) {
	n := start(t)
	args := n.relayArgs("relay1")
	n.kill(n.relayLock("relay1"))
	var log bytes.Buffer
	cmd := n.command("relay1", "top-relay", append(args, "--verbose")...)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.eventually("the relay answers", func() bool {
		s, err := n.relay("relay1").Status(t.Context())
		return err == nil && s.Node != nil
	})
	raw := make([]byte, 32)
	rand.Read(raw)
	canary := []byte("canary " + hex.EncodeToString(raw))
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat(append(canary, '\n'), 20_000), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run("alice", "top-relay", "send", "--to", "bob", "--text", string(canary), "--wait", "delivered", "--timeout", "30s")
	n.run("alice", "top-relay", "send", "--to", "bob", big, "--wait", "delivered", "--timeout", "30s")
	if !bytes.Contains([]byte(n.run("bob", "top-relay", "history")), canary) {
		t.Fatal("bob has no canary: the test looks in the wrong place")
	}
	dump := memory(t, cmd.Process.Pid)
	cmd.Process.Kill()
	cmd.Wait()
	if len(dump) < 1<<20 || bytes.Contains(dump, canary) {
		t.Errorf("of %d bytes of the relay's memory some are the text", len(dump))
	}
	if bytes.Contains(log.Bytes(), canary) {
		t.Error("the relay's log has the text")
	}
	for _, dir := range []home.Dir{n.home("relay1"), n.home("relay2")} {
		out, err := exec.Command("grep", "-rlF", string(canary), string(dir)).Output()
		if err == nil {
			t.Errorf("the relay's disk has the text: %s", out)
		}
	}
}

// memory is what a process has in its memory.
func memory(t *testing.T, pid int) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var all []byte
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perm); err != nil || perm[0] != 'r' || perm[1] != 'w' || to-from > 512<<20 {
			continue
		}
		b := make([]byte, to-from)
		k, _ := mem.ReadAt(b, from)
		all = append(all, b[:k]...)
	}
	return all
}
