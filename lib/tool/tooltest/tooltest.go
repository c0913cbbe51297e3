// Package tooltest runs scripts against real binaries: each
// testdata/script/*.txtar is a subtest. It is for tests alone. Beside the
// commands of testscript, where every program is run by exec, there are
//
//	exits N PROGRAM [ARGS...]  wants that exit code
//	await PATH                 waits until a socket answers or a file exists
package tooltest

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Run builds the named commands ("top-wallet", …) and runs the scripts in dir
// with them on PATH and TOP_HOME in the script's own folder.
func Run(t *testing.T, dir string, cmds ...string) {
	bin := t.TempDir()
	rooms := strings.Split("top/cmd/"+strings.Join(cmds, " top/cmd/"), " ")
	if out, err := exec.Command("go", append([]string{"build", "-o", bin + "/"}, rooms...)...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// go test does not see what go build reads: look at it, or a result is kept.
	root, _ := exec.Command("go", "list", "-m", "-f", "{{.Dir}}/lib {{.Dir}}/cmd").Output()
	for dir := range strings.FieldsSeq(string(root)) {
		filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { return nil })
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": Exits, "await": Await},
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			e.Setenv("TOP_HOME", filepath.Join(e.WorkDir, "home"))
			return nil
		},
	})
}

// Exits is the script command "exits".
func Exits(ts *testscript.TestScript, _ bool, args []string) {
	got, exit := 0, new(exec.ExitError)
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit %d, want %s", got, args[0])
	}
}

// Await is the script command "await".
func Await(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.Tick(20 * time.Millisecond)
	for late := time.After(30 * time.Second); ; {
		c, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err == nil {
			c.Close()
			return
		}
		if i, err := os.Stat(ts.MkAbs(args[0])); err == nil && i.Mode()&fs.ModeSocket == 0 {
			return
		}
		select {
		case <-tick:
		case <-late:
			ts.Fatalf("nothing at %s after 30 s", args[0])
		}
	}
}
