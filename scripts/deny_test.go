package scripts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"top/lib/home"
	"top/lib/ledger"
	"top/lib/top"
)

// A node key that tries to spend its owner's money is refused at the door, and
// by every validator.
func TestDenyNodeKeyThatSpends(t *testing.T) {
	n := start(t)
	n.run("bob", "top-wallet", "register", "--name", "bob", "--offer", "service=relay,unit=message,price=0.0001,window=64")
	bob := strings.TrimSpace(n.run("bob", "top-wallet", "address"))
	key, err := home.NodeKey(n.home("bob"), "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := top.ParseAddress(bob)
	if err != nil {
		t.Fatal(err)
	}
	acc, err := n.chain("val0").Account(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	status, err := n.chain("val0").Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bodies := []ledger.Body{
		&ledger.Transfer{To: ledger.To(0), Amount: top.One},
		&ledger.Lock{Amount: top.One},
		&ledger.Unregister{},
		&ledger.Open{Provider: 0, Cap: top.One, Expiry: uint64(time.Now().Add(time.Hour).Unix())},
	}
	for i, body := range bodies {
		tx := &ledger.Tx{Chain: status.Chain, From: acc.Index, Nonce: uint64(acc.Nonce) + uint64(i) + 1, Expiry: uint64(time.Now().Add(time.Minute).Unix()), Body: body}
		if err := tx.Sign(key.Signer()); err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"val0", "val2", "bob"} {
			_, err := n.chain(at).Submit(t.Context(), tx.Encode())
			if !errors.Is(err, top.ErrDenied) || !strings.Contains(err.Error(), "node key cannot sign") {
				t.Errorf("%s by a node key at %s: %v", body.Kind(), at, err)
			}
		}
	}
	if now, err := n.chain("val0").Account(t.Context(), a); err != nil || now.Balance != acc.Balance {
		t.Errorf("balance %s, was %s: %v", now.Balance, acc.Balance, err)
	}
}

// post sends a body to a socket and gives the status and the answer.
func post(t *testing.T, path, route string, body io.Reader, header ...string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer c.CloseIdleConnections()
	q, err := http.NewRequestWithContext(t.Context(), "POST", "http://top"+route, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := c.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// Every door that takes bytes refuses what is malformed or too long, says so in a
// JSON error, and the daemon goes on.
func TestDenyMalformedAtEveryDoor(t *testing.T) {
	n := start(t)
	doors := []struct{ home, sock, route string }{
		{"val0", "chain", "/v1/txs"},
		{"alice", "chain", "/v1/txs"},
		{"alice", "wallet", "/v1/payments"},
		{"alice", "wallet", "/v1/batches"},
		{"alice", "wallet", "/v1/budgets"},
		{"alice", "wallet", "/v1/vouchers"},
		{"alice", "wallet", "/v1/tickets"},
		{"alice", "wallet", "/v1/messages"},
	}
	bodies := map[string]string{
		"nothing":   "",
		"no JSON":   "{{{",
		"a list":    "[1,2,3]",
		"wrong":     `{"tx":17,"amount":{},"id":[],"service":1,"body":1,"digest":1,"payments":1,"per_day":1}`,
		"truncated": `{"tx":"AAAA`,
	}
	for _, d := range doors {
		path, err := n.home(d.home).Sock(d.sock)
		if err != nil {
			t.Fatal(err)
		}
		for name, body := range bodies {
			if code, answer := post(t, path, d.route, strings.NewReader(body)); code != 400 || !strings.Contains(answer, `"error":{"kind":"invalid"`) {
				t.Errorf("%s %s with %s: %d %s", d.home, d.route, name, code, answer)
			}
		}
		if d.route != "/v1/batches" {
			long := io.MultiReader(strings.NewReader(`{"tx":"`), bytes.NewReader(bytes.Repeat([]byte("A"), 3<<20)), strings.NewReader(`"}`))
			if code, answer := post(t, path, d.route, long); code != 400 || !strings.Contains(answer, "longer than") {
				t.Errorf("%s %s with 3 MiB: %d %.200s", d.home, d.route, code, answer)
			}
		}
		// A web page cannot reach a socket through a proxy of the browser's.
		if code, _ := post(t, path, d.route, strings.NewReader("{}"), "Origin", "https://example.org"); code != 403 {
			t.Errorf("%s %s from a web page: %d", d.home, d.route, code)
		}
	}
	n.run("alice", "top-wallet", "pay", "bob", "0.5")
}

// Another user of the machine reaches no socket, even where the folder lets him.
func TestDenyStrangerOnASocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can become another user; lib/sock tests the decision")
		return
	}
	n := start(t)
	path, err := n.home("alice").Sock("wallet")
	if err != nil {
		t.Fatal(err)
	}
	try := func() error {
		cmd := exec.Command(n.bin+"/top-wallet", "pay", strings.TrimSpace(n.run("bob", "top-wallet", "address")), "1", "--sock", path, "--home", "/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Fatalf("a stranger paid: %s", out)
		}
		t.Logf("%s", out)
		return err
	}
	for _, dir := range []string{n.bin, n.dir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if code := exitCode(try()); code != top.Denied.Exit() {
		t.Errorf("behind a closed folder: exit %d", code)
	}
	for _, p := range []string{string(n.home("alice")), n.home("alice").Path("run")} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(try()); code != top.Denied.Exit() {
		t.Errorf("behind an open folder: exit %d", code)
	}
}
