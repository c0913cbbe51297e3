package sock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"top/lib/top"
)

// A child is this test binary, told by a variable what to do instead of testing.
const childVar, pathVar = "SOCK_TEST_CHILD", "SOCK_TEST_PATH"

func TestMain(m *testing.M) {
	path := os.Getenv(pathVar)
	switch os.Getenv(childVar) {
	case "":
		os.Exit(m.Run())
	case "serve":
		s, err := New(Config{Name: "top-x", Sock: path})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("serving")
		s.Run(context.Background())
	case "call":
		c := Dial(path, "top-x serve")
		for _, err := range []error{c.Get(context.Background(), "/v1/look", nil), c.Post(context.Background(), "/v1/change", nil, nil)} {
			fmt.Println(top.KindOf(err), err)
		}
	}
}

func child(t *testing.T, exe, what, path string, uid int) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := exec.Command(exe)
	c.Dir = "/"
	c.Env = append(os.Environ(), childVar+"="+what, pathVar+"="+path)
	c.Stderr = os.Stderr
	if uid != os.Getuid() {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
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

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestK1_OneServerAPath(t *testing.T) {
	path := place(t)
	const racers = 16
	won := make(chan *Server)
	for range racers {
		go func() {
			s, err := New(Config{Name: "top-x", Sock: path})
			if err != nil && (!errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), "top-x serves "+path+" already")) {
				t.Error(err)
			}
			won <- s
		}()
	}
	var winner *Server
	for range racers {
		if s := <-won; s != nil {
			if winner != nil {
				t.Error("two servers on one path")
			}
			winner = s
		}
	}
	if winner == nil {
		t.Fatal("no server on the path")
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Type() != fs.ModeSocket || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	winner.Close()
	winner.Close()
	serve(t, Config{Sock: path})
}

func TestK1_AKilledServerLeavesThePathFree(t *testing.T) {
	path := place(t)
	c, lines := child(t, self(t), "serve", path, os.Getuid())
	if !lines.Scan() || lines.Text() != "serving" {
		t.Fatal(lines.Text(), lines.Err())
	}
	if err := Dial(path, "top-x serve").Get(t.Context(), "/v1/", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Name: "top-x", Sock: path}); !errors.Is(err, top.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprintf("kill %d", c.Process.Pid)) {
		t.Errorf("while the child serves: %v", err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the killed server left no socket, so this shows nothing: %v", err)
	}
	// The leftover answers nobody, and the client says what to do.
	if err := Dial(path, "top-x serve").Get(t.Context(), "/v1/", nil); !errors.Is(err, top.ErrOffline) || !strings.Contains(err.Error(), "no answer on "+path+" (start it: top-x serve)") {
		t.Errorf("a leftover: %v", err)
	}
	s := serve(t, Config{Sock: path})
	if err := s.Get(t.Context(), "/v1/", nil); err != nil {
		t.Errorf("the next server: %v", err)
	}
}

func TestClaimRefusals(t *testing.T) {
	path := place(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	// A file that is no socket was once removed.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(filepath.Dir(path), "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, folder} {
		if _, err := New(Config{Name: "top-x", Sock: p}); !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "--sock") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := New(Config{Name: "top-x", Sock: filepath.Join(path, "x.sock")}); err == nil {
		t.Error("below a file")
	}
	long := "/" + strings.Repeat("x", maxPath)
	for what, err := range map[string]error{
		"server": func() error { _, err := New(Config{Name: "top-x", Sock: long}); return err }(),
		"client": Dial(long, "top-x serve").Get(t.Context(), "/v1/", nil),
	} {
		if !errors.Is(err, top.ErrInvalid) || !strings.Contains(err.Error(), "108 bytes") || !strings.Contains(err.Error(), "--home") {
			t.Errorf("%s, 108 bytes: %v", what, err)
		}
	}
	if err := fits(long[:maxPath]); err != nil {
		t.Errorf("107 bytes: %v", err)
	}
	// What a refused claim held is free again.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	serve(t, Config{Sock: path})
}

func request(t *testing.T, uid any, header string) *http.Request {
	t.Helper()
	ctx := context.Background()
	if uid != nil {
		ctx = context.WithValue(ctx, peerKey{}, uid)
	}
	q, err := http.NewRequestWithContext(ctx, "POST", "http://top/v1/change", nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != "" {
		q.Header.Set(header, "https://example.org")
	}
	return q
}

func TestK2_TheDecision(t *testing.T) {
	me := uint32(os.Getuid())
	for _, tc := range []struct {
		name   string
		access Access
		public bool
		uid    any
		header string
		want   error
	}{
		{"owner writes", Write, false, me, "", nil},
		{"another writes", Write, false, me + 1, "", top.ErrDenied},
		{"root is another too", Write, false, me ^ 1<<31, "", top.ErrDenied},
		{"nobody known writes", Write, false, nil, "", top.ErrDenied},
		{"another reads", Read, false, me + 1, "", nil},
		{"nobody known reads", Read, false, nil, "", nil},
		{"stranger writes what is public", Write, true, nil, "", nil},
		{"owner from a page", Read, false, me, "Origin", top.ErrDenied},
		{"owner from a link", Write, false, me, "Referer", top.ErrDenied},
		{"stranger from a page", Read, true, nil, "Origin", top.ErrDenied},
	} {
		err := allow(Route{Access: tc.access}, tc.public, request(t, tc.uid, tc.header))
		if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if Read.String() != "read" || Write.String() != "write" {
		t.Error("access has other names")
	}
}

// looks and changes count what came through.
func looks(looked, changed *atomic.Int32) []Route {
	return []Route{
		{Method: "GET", Path: "/v1/look", Handle: func(c *Call) error { looked.Add(1); return c.JSON(true) }},
		{Method: "POST", Path: "/v1/change", Access: Write, Handle: func(c *Call) error { changed.Add(1); return c.JSON(true) }},
	}
}

func TestK2_AWebPageIsRefused(t *testing.T) {
	var looked, changed atomic.Int32
	s := serve(t, Config{Routes: looks(&looked, &changed)})
	for _, header := range []string{"Origin", "Referer"} {
		for _, q := range [][2]string{{"GET", "/v1/look"}, {"POST", "/v1/change"}, {"GET", "/v1/"}, {"GET", "/v1/metrics"}} {
			if res, text := ask(t, plain(s.path), q[0], q[1], header, "null"); res.StatusCode != 403 || !strings.Contains(text, `"denied"`) {
				t.Errorf("%v with %s: %d %s", q, header, res.StatusCode, text)
			}
		}
	}
	if looked.Load()+changed.Load() != 0 {
		t.Error("a page came through")
	}
	if err := s.Post(t.Context(), "/v1/change", nil, nil); err != nil || changed.Load() != 1 {
		t.Errorf("the owner: %v", err)
	}
}

func TestK2_ATCPCallerHasNoUID(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if uid, ok := peerUID(withPeer(t.Context(), c)); ok {
		t.Errorf("a TCP caller is uid %d", uid)
	}
}

// readableSelf is a copy of this binary where every user may run it.
func readableSelf(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(dir, "child")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o755)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err == nil {
		err = os.Chmod(path, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Only root can call as somebody else; for others the table of TestK2_TheDecision
// is the whole test.
func TestK2_AnotherUserChangesNothing(t *testing.T) {
	uid, exe := os.Getuid(), self(t)
	if uid == 0 {
		uid, exe = 65534, readableSelf(t)
	}
	var looked, changed atomic.Int32
	s := serve(t, Config{Routes: looks(&looked, &changed)})
	call := func() (said []string) {
		_, lines := child(t, exe, "call", s.path, uid)
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		return said
	}
	if uid == os.Getuid() {
		if said := call(); len(said) != 2 || looked.Load() != 1 || changed.Load() != 1 {
			t.Errorf("the owner: %q", said)
		}
		return
	}
	// As it is, another user does not even reach the socket.
	for round, mode := range []fs.FileMode{0o700, 0o711} {
		if err := os.Chmod(filepath.Dir(s.path), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(filepath.Dir(s.path)), 0o711); err != nil {
			t.Fatal(err)
		}
		said := call()
		if len(said) != 2 || looked.Load()+changed.Load() != 0 {
			t.Fatalf("round %d: %q", round, said)
		}
		for _, line := range said {
			if !strings.HasPrefix(line, "denied ") || !strings.Contains(line, "belongs to another user") {
				t.Errorf("round %d: %s", round, line)
			}
		}
	}
	// Opened to all, it may be read, and still not changed.
	if err := os.Chmod(s.path, 0o666); err != nil {
		t.Fatal(err)
	}
	said := call()
	if len(said) != 2 || strings.TrimSpace(said[0]) != "<nil>" || looked.Load() != 1 || changed.Load() != 0 ||
		!strings.HasPrefix(said[1], "denied only the owner of this daemon may POST /v1/change") {
		t.Errorf("%q, looked %d, changed %d", said, looked.Load(), changed.Load())
	}
}
