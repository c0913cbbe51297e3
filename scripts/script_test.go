package scripts

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/tool/tooltest"
	"top/lib/top"
)

// binaries builds the tools once for all tests of this package.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "topbin")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "top/cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if role := os.Getenv("TOP_STOCK"); role != "" { // BenchmarkRootless runs it so
		if err := stock(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "stock", role+":", err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if dir, err := binaries(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// A localnet is scripts/localnet, running.
type localnet struct {
	t    testing.TB
	rate string // of payments beside; "" is none
	dir  string
	bin  string
	env  []string
	cmd  *exec.Cmd
	out  *bufio.Reader
}

// start runs scripts/localnet on a folder of its own until the test ends, beside that of
// another test: they wait for blocks most of the time.
func start(t *testing.T) *localnet {
	t.Helper()
	t.Parallel()
	return begin(t, os.Getenv("TOP_FAULT_LOAD"))
}

// begin is start for what goes alone, with so many payments a second meanwhile.
func begin(t testing.TB, rate string) *localnet {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &localnet{t: t, rate: rate, dir: dir, bin: bin, env: append(os.Environ(), "TOP_BIN="+bin, "PATH="+bin+":"+os.Getenv("PATH"))}
	n.up()
	return n
}

// up starts the script and waits for its ready record.
func (n *localnet) up() {
	n.t.Helper()
	n.cmd = exec.Command("./localnet", n.dir)
	n.cmd.Env = n.env
	n.cmd.Stderr = os.Stderr
	pipe, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	cmd := n.cmd
	n.t.Cleanup(func() { n.down(cmd) })
	n.out = bufio.NewReader(pipe)
	line, err := n.out.ReadString('\n')
	if err != nil || !strings.Contains(line, `"type":"ready"`) {
		n.t.Fatalf("localnet is not ready: %q, %v", line, err)
	}
	n.load()
}

// load offers payments at val1, which no test kills, while the test runs: so many a
// second as TOP_FAULT_LOAD says, none without it. What the chain took must add up.
func (n *localnet) load() {
	if n.rate == "" {
		return
	}
	const payers = "16"
	_, err := n.try("val1", "top-chain", "bench", "--on", string(n.home("val1")), "--payers", payers, "--offer", "1", "--seconds", "1")
	if err == nil {
		n.t.Fatal("payments without money")
	}
	_, text, ok := strings.Cut(err.Error(), "pay it: top-wallet ")
	text, _, _ = strings.Cut(text, ")")
	if !ok {
		n.t.Fatal(err)
	}
	n.run("alice", "top-wallet", strings.Fields(text)...)
	cmd := n.command("val1", "top-chain", "bench", "--on", string(n.home("val1")), "--payers", payers, "--offer", n.rate, "--seconds", "1200", "--json")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// down interrupts the script, which must end by itself.
func (n *localnet) down(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	cmd.Process.Signal(syscall.SIGINT)
	late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		n.t.Errorf("localnet after SIGINT: %v", err)
	}
}

func (n *localnet) home(name string) home.Dir { return home.Dir(filepath.Join(n.dir, name)) }

// chain is a client of the chain daemon of one home.
func (n *localnet) chain(name string) *api.Chain {
	path, err := n.home(name).Sock("chain")
	if err != nil {
		n.t.Fatal(err)
	}
	return api.NewChain(sock.Dial(path, "top-chain serve"))
}

// run runs a tool on one home and gives its stdout; it must succeed.
func (n *localnet) run(who, tool string, args ...string) string {
	n.t.Helper()
	out, err := n.try(who, tool, args...)
	if err != nil {
		n.t.Fatalf("%s %s: %v", tool, strings.Join(args, " "), err)
	}
	return out
}

// try is run for what may fail; the error carries stderr.
func (n *localnet) try(who, tool string, args ...string) (string, error) {
	cmd := n.command(who, tool, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

func (n *localnet) command(who, tool string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(n.bin, tool), args...)
	cmd.Env = append(n.env, "TOP_HOME="+string(n.home(who)))
	return cmd
}

// serve starts a daemon on one home and waits until it is ready.
func (n *localnet) serve(who, tool string, args ...string) *exec.Cmd {
	n.t.Helper()
	return n.ready(n.command(who, tool, append(args, "--ready-fd", "3", "--quiet")...))
}

// ready starts a daemon that was given --ready-fd 3.
func (n *localnet) ready(cmd *exec.Cmd) *exec.Cmd {
	n.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	defer r.Close()
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	w.Close()
	n.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	})
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		n.t.Fatalf("%v did not get ready", cmd.Args)
	}
	return cmd
}

// agent starts the agent of a home.
func (n *localnet) agent(who string) *exec.Cmd {
	return n.serve(who, "top-wallet", "agent", "--passphrase-file", n.home(who).Path("passphrase"))
}

// kill ends the process that holds a lock file, with -9, and waits until the
// lock is free.
func (n *localnet) kill(lock string) {
	n.t.Helper()
	b, err := os.ReadFile(lock)
	if err != nil {
		n.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		n.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the lock is free", func() bool {
		release, err := home.Lock(lock)
		if err == nil {
			release()
		}
		return err == nil
	})
}

// eventually polls a condition until it holds.
func (n *localnet) eventually(what string, ok func() bool) {
	n.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(60 * time.Second)
	defer late.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			n.story()
			n.t.Fatalf("never: %s", what)
		}
	}
}

// story logs where everybody stands, for a failure whose cause is not at hand.
func (n *localnet) story() {
	for _, q := range []string{
		"alice top-relay status --json", "bob top-relay status --json", "relay1 top-relay status --json", "relay2 top-relay status --json",
		"alice top-relay history --json", "bob top-relay history --json", "alice top-wallet channels --json", "val0 top-chain status --json", "alice top-chain status --json",
	} {
		words := strings.Fields(q)
		out, err := n.try(words[0], words[1], words[2:]...)
		n.t.Logf("%s: %v\n%s", q, err, out[max(0, len(out)-4000):])
	}
}

// balance is a proven balance, as a light client shows it.
func (n *localnet) balance(who, address string) top.Amount {
	n.t.Helper()
	a, err := top.ParseAddress(address)
	if err != nil {
		n.t.Fatal(err)
	}
	r, err := n.chain(who).Account(n.t.Context(), a)
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Balance
}

// TestScripts runs every script of testdata against one network.
func TestScripts(t *testing.T) {
	n := start(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": tooltest.Exits, "await": tooltest.Await, "blocks": n.blocks, "field": field, "user": n.user, "add": add, "until": until,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", n.bin+":"+e.Getenv("PATH"))
			e.Setenv("NET", n.dir)
			e.Setenv("ALICE", string(n.home("alice")))
			e.Setenv("BOB", string(n.home("bob")))
			e.Setenv("RELAY", string(n.home("relay1")))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("ALICEADDR", strings.TrimSpace(n.run("alice", "top-wallet", "address")))
			s, err := n.chain("val1").Status(t.Context())
			if err != nil {
				return err
			}
			e.Setenv("MESH", s.Addresses[0])
			return nil
		},
	})
}

// blocks is the script command "blocks N": it waits for N more blocks.
func (n *localnet) blocks(ts *testscript.TestScript, _ bool, args []string) {
	more, err := strconv.Atoi(args[0])
	ts.Check(err)
	s, err := n.chain("val0").Status(n.t.Context())
	ts.Check(err)
	n.eventually("blocks", func() bool {
		now, err := n.chain("val0").Status(n.t.Context())
		return err == nil && now.Height >= s.Height+top.Height(more)
	})
}

// user is the script command "user NAME AMOUNT": it makes a wallet in $WORK/NAME
// with AMOUNT of Alice's money, a light client's socket and an agent of its own.
func (n *localnet) user(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, "run"), 0o700))
	pass := filepath.Join(dir, "passphrase")
	ts.Check(os.WriteFile(pass, []byte("open sesame\n"), 0o600))
	ts.Check(ts.Exec("top-wallet", "new", "--home", dir, "--passphrase-file", pass, "--words-file", filepath.Join(dir, "words")))
	id, err := os.ReadFile(filepath.Join(dir, "wallet.json"))
	ts.Check(err)
	address := between(string(id), `"address":"`, `"`)
	if args[1] != "0" {
		ts.Check(ts.Exec("top-wallet", "pay", address, args[1], "--home", string(n.home("alice")), "--quiet"))
	}
	ts.Check(os.Symlink(string(n.home("alice").Path("run", "chain.sock")), filepath.Join(dir, "run", "chain.sock")))
	r, w, err := os.Pipe()
	ts.Check(err)
	defer r.Close()
	cmd := exec.Command(filepath.Join(n.bin, "top-wallet"), "agent", "--home", dir, "--passphrase-file", pass, "--ready-fd", "3", "--quiet")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(cmd.Start())
	w.Close()
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	_, err = bufio.NewReader(r).ReadString('\n')
	ts.Check(err)
	ts.Setenv(strings.ToUpper(args[0]), address)
}

// field is the script command "field VAR NAME FILE": the variable becomes the
// value of a field in the last record of a file that has it.
func field(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(args[2])
	i := strings.LastIndex(text, `"`+args[1]+`":`)
	if (i < 0) != neg {
		ts.Fatalf("field %s in %s: %t", args[1], args[2], i >= 0)
	}
	if i < 0 {
		return
	}
	rest := strings.TrimPrefix(text[i+len(args[1])+3:], `"`)
	ts.Setenv(args[0], rest[:strings.IndexAny(rest, `",}`)])
}

// until is the script command "until TEXT COMMAND...": it runs the command again
// and again until its stdout has TEXT.
func until(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.Tick(50 * time.Millisecond)
	for late := time.After(30 * time.Second); ; {
		if ts.Exec(args[1], args[2:]...) == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		select {
		case <-tick:
		case <-late:
			ts.Fatalf("%s never said %s", args[1], args[0])
		}
	}
}

// add is the script command "add VAR A B...": the sum of counts; "-B" subtracts.
func add(ts *testscript.TestScript, _ bool, args []string) {
	sum := int64(0)
	for _, a := range args[1:] {
		v, err := strconv.ParseInt(a, 10, 64)
		ts.Check(err)
		sum += v
	}
	ts.Setenv(args[0], strconv.FormatInt(sum, 10))
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// exitCode is the exit code in an error of run.
func exitCode(err error) int {
	exit := new(exec.ExitError)
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
