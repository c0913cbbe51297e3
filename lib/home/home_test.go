package home

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"top/lib/top"
)

// A child is this test binary, told by a variable what to do instead of testing:
// what a crash leaves behind is seen when a process really dies.
const childVar, pathVar = "HOME_TEST_CHILD", "HOME_TEST_PATH"

func TestMain(m *testing.M) {
	path := os.Getenv(pathVar)
	switch os.Getenv(childVar) {
	case "":
		os.Exit(m.Run())
	case "write":
		childWrites(path)
	case "append":
		childAppends(path)
	case "full":
		childFillsTheDisk(path)
	case "lock":
		if _, err := Lock(path); err != nil {
			fmt.Println(err)
		}
		fmt.Println("locked")
		select {}
	}
}

// child starts a child and gives its lines.
func child(t *testing.T, what, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), childVar+"="+what, pathVar+"="+path)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c, bufio.NewScanner(out)
}

func line(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the child ended: %v", lines.Err())
	}
	return lines.Text()
}

func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
}

func get(vars map[string]string) func(string) string { return func(k string) string { return vars[k] } }

func TestDefault(t *testing.T) {
	for want, vars := range map[string]map[string]string{
		"/a":      {"TOP_HOME": "/a", "HOME": "/h"},
		"/h/.top": {"HOME": "/h"},
		"rel":     {"TOP_HOME": "rel"},
	} {
		if d, err := Default(get(vars)); err != nil || string(d) != want {
			t.Errorf("%v: %s %v, want %s", vars, d, err, want)
		}
		if d, err := Of("", get(vars)); err != nil || string(d) != want {
			t.Errorf("%v: Of %s %v, want %s", vars, d, err, want)
		}
		if d, err := Of("/flag", get(vars)); err != nil || d != "/flag" {
			t.Errorf("a flag does not win: %s %v", d, err)
		}
	}
	if _, err := Default(get(nil)); !errors.Is(err, top.ErrUsage) || !strings.Contains(err.Error(), "--home") {
		t.Errorf("no home: %v", err)
	}
	if p := Dir("/a").Path("b", "c"); p != "/a/b/c" {
		t.Error(p)
	}
}

func TestSockPathFits(t *testing.T) {
	if p, err := Dir("/a").Sock("top-x"); err != nil || p != "/a/run/top-x.sock" {
		t.Errorf("%s %v", p, err)
	}
	if p, err := Dir("rel").Sock("x"); err != nil || !filepath.IsAbs(p) {
		t.Errorf("%s %v: not absolute", p, err)
	}
	fits := Dir("/" + strings.Repeat("a", maxSockPath-len("//run/x.sock")))
	if p, err := fits.Sock("x"); err != nil || len(p) != 107 {
		t.Errorf("%d bytes: %v", len(p), err)
	}
	_, err := (fits + "a").Sock("x")
	if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "--home") || !strings.Contains(err.Error(), "108") {
		t.Errorf("108 bytes: %v", err)
	}
	if p, err := (fits + "a").SockOr("chosen.sock", "x"); err != nil || p != "chosen.sock" {
		t.Errorf("chosen: %s %v", p, err)
	}
	if p, err := fits.SockOr("", "x"); err != nil || len(p) != 107 {
		t.Errorf("%s %v", p, err)
	}
}

func TestMakeIsForTheOwner(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "deep", "home"))
	for range 2 {
		if err := d.Make(); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{d.Path("run"), d.Path("keys"), d.Path("receipts")} {
			st, err := os.Stat(p)
			if err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v %v", p, st.Mode(), err)
			}
			// The second round closes what somebody opened.
			if err := os.Chmod(p, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(d.Path()); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Dir(file).Make(); err == nil || !strings.Contains(err.Error(), "make home") {
		t.Errorf("a file as home: %v", err)
	}
}

func TestH1_WrittenWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, data := range []string{"one", "", strings.Repeat("x", 1<<20)} {
		if err := WriteFile(path, []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		st, e := os.Stat(path)
		if err != nil || e != nil || string(b) != data || st.Mode().Perm() != 0o640 {
			t.Errorf("%d of %d bytes, mode %v: %v %v", len(b), len(data), st.Mode(), err, e)
		}
	}
	if err := WriteParts(path, 0o640, []byte("in "), nil, []byte("parts")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "in parts" {
		t.Errorf("%q, %v", b, err)
	}
	// A write that fails leaves what was there, and nothing beside it.
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{filepath.Join(dir, "folder"), filepath.Join(dir, "none", "file")} {
		if err := WriteFile(bad, []byte("x"), 0o600); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 2 {
		t.Errorf("left: %v %v", all, err)
	}
}

// childWrites rewrites a file for ever, each time with one letter, and says when
// it has begun.
func childWrites(path string) {
	for n := 0; ; n++ {
		if err := WriteFile(path, bytes.Repeat([]byte{byte('a' + n%26)}, 300_000), 0o600); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if n == 0 {
			fmt.Println("begun")
		}
	}
}

func TestH1_WholeOverAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	whole := func() {
		b, err := os.ReadFile(path)
		if err != nil || len(b) != 300_000 || len(bytes.Trim(b, string(b[:1]))) != 0 {
			t.Fatalf("%d bytes, some of another write: %v", len(b), err)
		}
	}
	for range 5 {
		c, lines := child(t, "write", path)
		if got := line(t, lines); got != "begun" {
			t.Fatal(got)
		}
		for range 20 {
			whole()
		}
		kill(t, c)
		whole()
	}
}

func TestH3_ASecretOfMineAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for perm := range fs.FileMode(0o1000) {
		if perm&0o400 == 0 { // not readable by its owner either, unless that is root
			continue
		}
		if err := os.Chmod(path, perm); err != nil {
			t.Fatal(err)
		}
		b, err := ReadSecret(path)
		if perm&0o077 == 0 {
			if err != nil || string(b) != "secret" {
				t.Errorf("mode %04o: %q %v", perm, b, err)
			}
			continue
		}
		if !errors.Is(err, top.ErrDenied) || b != nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %q %v", perm, b, err)
		}
	}
}

func TestSecretsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadSecret(filepath.Join(dir, "none")); !errors.Is(err, top.ErrNotFound) || !strings.Contains(err.Error(), "none") {
		t.Errorf("no file: %v", err)
	}
	// A folder once read as an empty secret.
	if b, err := ReadSecret(mkdir(t, dir, "folder")); err == nil || b != nil {
		t.Errorf("a folder: %q %v", b, err)
	}
	path := filepath.Join(dir, "file")
	for size, want := range map[int]error{0: nil, maxSecret: nil, maxSecret + 1: top.ErrInvalid} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := ReadSecret(path)
		if !errors.Is(err, want) || want == nil && len(b) != size {
			t.Errorf("%d bytes: %d, %v", size, len(b), err)
		}
	}
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	p := filepath.Join(parts...)
	if err := os.Mkdir(p, 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFree(t *testing.T) {
	if n, err := Free(t.TempDir()); err != nil || n == 0 {
		t.Errorf("%d %v", n, err)
	}
	if _, err := Free(filepath.Join(t.TempDir(), "none")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%v", err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	if !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("kill %d", os.Getpid())) || !strings.Contains(err.Error(), path) {
		t.Errorf("held: %v", err)
	}
	release()
	release()
	// Somebody who holds it and has not said who yet: no number is better than an
	// old one.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err = Lock(path); !errors.Is(err, top.ErrBusy) || strings.Contains(err.Error(), "kill") || !strings.Contains(err.Error(), "fuser") {
		t.Errorf("held by one unknown: %v", err)
	}
	f.Close()
	if release, err = Lock(path); err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := Lock(filepath.Join(path, "x")); err == nil || errors.Is(err, top.ErrBusy) {
		t.Errorf("below a file: %v", err)
	}
}

func TestLockEndsWithItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	c, lines := child(t, "lock", path)
	if got := line(t, lines); got != "locked" {
		t.Fatal(got)
	}
	if _, err := Lock(path); !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", c.Process.Pid)) {
		t.Errorf("held by a child: %v", err)
	}
	kill(t, c)
	release, err := Lock(path)
	if err != nil {
		t.Fatalf("after its holder was killed: %v", err)
	}
	release()
}

func TestLockHasOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	got := make(chan func())
	for range 20 {
		go func() {
			release, err := Lock(path)
			if err != nil && !errors.Is(err, top.ErrBusy) {
				t.Error(err)
			}
			got <- release
		}()
	}
	held := 0
	for range 20 {
		if release := <-got; release != nil {
			held++
			defer release()
		}
	}
	if held != 1 {
		t.Errorf("%d hold it at once", held)
	}
}
