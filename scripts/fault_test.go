package scripts

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"top/lib/keys"
	"top/lib/top"
)

// rounds is how often each fault happens: once, or TOP_FAULT_ROUNDS times.
func rounds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("TOP_FAULT_ROUNDS"))
	if err != nil && os.Getenv("TOP_FAULT_ROUNDS") != "" {
		t.Fatal(err)
	}
	return max(n, 1)
}

// stranger is an address that nobody has paid.
func stranger(t *testing.T) string {
	k, err := keys.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return top.Address(k.Public()).String()
}

// Each process that takes part in a batch is killed with -9 in the middle of it
// and started again: the batch is finished, and nobody is paid twice or not.
func TestFaultKillInTheMiddleOfABatch(t *testing.T) {
	n := start(t)
	for round := range rounds(t) {
		for _, who := range []string{"verb", "agent", "light client", "validator"} {
			t.Run(fmt.Sprintf("%s %d", who, round), func(t *testing.T) { killInBatch(t, n, who, fmt.Sprintf("b%d", round)) })
		}
	}
}

const (
	batchLines = 20_000
	lineAmount = 1_000_003 // nano
)

func killInBatch(t *testing.T, n *localnet, who, id string) {
	id += strings.ReplaceAll(who, " ", "")
	payee := stranger(t)
	list := filepath.Join(t.TempDir(), "list.csv")
	line := fmt.Sprintf("%s,%s\n", payee, top.Amount(lineAmount))
	if err := os.WriteFile(list, []byte(strings.Repeat(line, batchLines)), 0o600); err != nil {
		t.Fatal(err)
	}
	alice := strings.TrimSpace(n.run("alice", "top-wallet", "address"))
	before := n.balance("bob", alice)

	verb := n.command("alice", "top-wallet", "pay-batch", "--json", "--id", id, list)
	out, err := verb.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := verb.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && !strings.Contains(lines.Text(), "batch-part") {
	}
	switch who {
	case "verb":
		verb.Process.Kill()
	case "agent":
		n.kill(n.home("alice").Path("wallet", "lock"))
		n.agent("alice")
	case "light client":
		n.kill(n.home("alice").Path("chain", "lock"))
		n.serve("alice", "top-chain", "serve")
	case "validator":
		n.kill(n.home("val0").Path("chain", "lock"))
		n.serve("val0", "top-chain", "serve")
	}
	for lines.Scan() {
	}
	verb.Wait() // how it ended depends on what was killed
	var last string
	n.eventually("the batch is finished", func() bool {
		last, err = n.try("alice", "top-wallet", "pay-batch", "--resume", id, "--json")
		return err == nil
	})
	fee, err := strconv.ParseUint(between(last[strings.LastIndex(last, `"fee"`):], `"fee":"`, `"`), 10, 64)
	if err != nil {
		t.Fatalf("%q: %v", last, err)
	}
	total := top.Amount(batchLines * lineAmount)
	if got, want := n.balance("bob", alice), before-total-top.Amount(fee); got != want {
		t.Errorf("alice has %s, want %s", got, want)
	}
	const accountFee = 100_000
	if got, want := n.balance("bob", payee), total-accountFee; got != want {
		t.Errorf("the payee has %s, want %s", got, want)
	}
}

// One validator of four may be down; with two down the chain halts and does not
// fork; when they are back it goes on, and all have the same state.
func TestFaultValidatorsDown(t *testing.T) {
	n := start(t)
	for round := range rounds(t) {
		payee := stranger(t)
		n.kill(n.home("val3").Path("chain", "lock"))
		n.run("alice", "top-wallet", "pay", payee, "1")

		n.kill(n.home("val2").Path("chain", "lock"))
		id := fmt.Sprintf("halt%d", round)
		_, err := n.try("alice", "top-wallet", "pay", payee, "1", "--wait", "2s", "--id", id)
		if code := exitCode(err); code != top.Timeout.Exit() && code != top.Offline.Exit() {
			t.Fatalf("a payment while two of four are down: %v", err)
		}
		a, err := n.chain("val0").Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.chain("val1").Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if a.Height == b.Height && a.Header != b.Header {
			t.Fatalf("a fork at %s: %s and %s", a.Height, a.Header, b.Header)
		}

		n.serve("val2", "top-chain", "serve")
		n.serve("val3", "top-chain", "serve")
		n.eventually("the payment is final", func() bool {
			out, err := n.try("alice", "top-wallet", "payment", id, "--json")
			return err == nil && strings.Contains(out, `"state":"final"`)
		})
		n.eventually("all four caught up", func() bool { return n.sameRoot(a.Height) })
		if got, want := n.balance("bob", payee), 2*top.One-100_000; got != want {
			t.Errorf("the payee has %s, want %s", got, want)
		}
	}
}

// sameRoot says whether all validators are above a height and hold one header at
// their common one.
func (n *localnet) sameRoot(above top.Height) bool {
	headers := map[top.Height]map[top.ID]bool{}
	for i := range 4 {
		s, err := n.chain(fmt.Sprintf("val%d", i)).Status(n.t.Context())
		if err != nil || s.Height <= above {
			return false
		}
		if headers[s.Height] == nil {
			headers[s.Height] = map[top.ID]bool{}
		}
		headers[s.Height][s.Header] = true
	}
	return len(headers) == 1 && func() bool {
		for _, h := range headers {
			return len(h) == 1
		}
		return false
	}()
}

// limited runs a daemon whose files may not grow beyond so many blocks of 512
// bytes, the nearest to a full disk that needs no root, and gives its exit error.
func (n *localnet) limited(who string, blocks int, args ...string) *exec.Cmd {
	line := fmt.Sprintf("ulimit -f %d; exec \"$@\"", blocks)
	cmd := exec.Command("sh", append([]string{"-c", line, "sh"}, args...)...)
	cmd.Env = append(n.env, "TOP_HOME="+string(n.home(who)))
	return cmd
}

// A node whose disk is full stops with an error that names the remedy, and comes
// back to its chain when there is room again.
func TestFaultDiskFullUnderANode(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &localnet{t: t, dir: dir, bin: bin, env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))}
	n.run("solo", "top-chain", "init", "--fund", stranger(t)+"=1000")
	for range rounds(t) {
		var stderr strings.Builder
		cmd := n.limited("solo", 128, "top-chain", "serve", "--empty-blocks", "10ms", "--quiet")
		cmd.Stderr = &stderr
		if err := cmd.Run(); exitCode(err) != 1 || !strings.Contains(stderr.String(), "the disk is full") {
			t.Fatalf("a node with a full disk: %v, %s", err, stderr.String())
		}
		up := n.serve("solo", "top-chain", "serve", "--empty-blocks", "10ms")
		s, err := n.chain("solo").Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n.eventually("new blocks", func() bool {
			now, err := n.chain("solo").Status(t.Context())
			return err == nil && now.Height > s.Height && now.Supply == 1000*top.One
		})
		up.Process.Kill()
		up.Wait()
	}
}

// A node that is told to keep some space free stops before there is none.
func TestFaultTooLittleSpace(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	n := &localnet{t: t, dir: t.TempDir(), bin: bin, env: os.Environ()}
	n.run("solo", "top-chain", "init")
	_, err = n.try("solo", "top-chain", "serve", "--min-free", "1000000000")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "--min-free") {
		t.Fatalf("%v", err)
	}
}

// An agent that cannot write down what it signs does not send it.
func TestFaultDiskFullUnderAnAgent(t *testing.T) {
	n := start(t)
	alice := strings.TrimSpace(n.run("alice", "top-wallet", "address"))
	n.kill(n.home("alice").Path("wallet", "lock"))
	for range rounds(t) {
		cmd := n.limited("alice", 8, "top-wallet", "agent", "--quiet", "--passphrase-file", string(n.home("alice").Path("passphrase")))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		paid, refused := 0, error(nil)
		before := n.balance("bob", alice)
		n.eventually("the agent answers", func() bool {
			_, err := n.try("alice", "top-wallet", "budget", "list")
			return err == nil
		})
		payee := stranger(t)
		for refused == nil && paid < 100 {
			if _, refused = n.try("alice", "top-wallet", "pay", payee, "0.001"); refused == nil {
				paid++
			}
		}
		if refused == nil || !strings.Contains(refused.Error(), "file too large") {
			t.Fatalf("%d paid with a full disk: %v", paid, refused)
		}
		cmd.Process.Kill()
		cmd.Wait()

		up := n.agent("alice")
		n.run("alice", "top-wallet", "pay", payee, "0.001") // a later payment is not in the way of anything lost
		spent := before - n.balance("bob", alice)
		if want := top.Amount(paid+1) * top.One / 1000; spent < want || spent > want+top.One/2000 {
			t.Errorf("%d payments of 0.001 cost %s", paid+1, spent)
		}
		up.Process.Kill()
		up.Wait()
	}
}
