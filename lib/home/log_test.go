package home

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"top/lib/top"
)

func open(t testing.TB, path string) *Log {
	t.Helper()
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func lines(t testing.TB, each func(func([]byte) error) error) (all []string) {
	t.Helper()
	if err := each(func(b []byte) error { all = append(all, string(b)); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestH2_LogGivesBackWhatItTook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	want := []string{"one", "", `{"type":"x"}`, "\r\x00\xff", strings.Repeat("y", 200_000), "last"}
	l := open(t, path)
	for _, s := range want {
		if err := l.Append([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, l.Each); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, open(t, path).Each); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("opened again: %d lines, want %d", len(got), len(want))
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

func TestH2_ATornLineIsCut(t *testing.T) {
	whole := "first\nsecond\n" + strings.Repeat("z", 9000) + "\nlast\n"
	for cut := range len(whole) + 1 {
		if cut > 20 && cut < len(whole)-20 && cut%997 != 0 {
			continue
		}
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(whole[:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		kept := whole[:strings.LastIndex(whole[:cut], "\n")+1]
		// Whoever reads it meanwhile does not see the torn line either.
		if got := lines(t, func(fn func([]byte) error) error { return EachLine(path, fn) }); len(got) != strings.Count(kept, "\n") {
			t.Errorf("cut at %d: %d lines are read", cut, len(got))
		}
		l := open(t, path)
		if b, err := os.ReadFile(path); err != nil || string(b) != kept {
			t.Errorf("cut at %d: %d bytes kept, want %d: %v", cut, len(b), len(kept), err)
		}
		if err := l.Append([]byte("next")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != kept+"next\n" {
			t.Errorf("cut at %d: what follows is not on a line of its own: %v", cut, err)
		}
	}
}

// childAppends appends numbered lines for ever and says each that it synced.
func childAppends(path string) {
	l, err := OpenLog(path)
	for n := 0; err == nil; n++ {
		if err = l.Append(fmt.Appendf(nil, "line %d %s", n, strings.Repeat("x", n%5000))); err == nil {
			err = l.Sync()
		}
		fmt.Println(n)
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestH2_EveryLineOverAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, said := child(t, "append", path)
	last := ""
	for range 50 {
		last = line(t, said)
	}
	kill(t, c)
	for said.Scan() { // what it had still said
		last = said.Text()
	}
	got := lines(t, open(t, path).Each)
	if n := fmt.Sprint(len(got) - 1); len(last) > len(n) || len(last) == len(n) && last > n {
		t.Errorf("line %s was synced, the log ends with %s", last, n)
	}
	for i, s := range got {
		if s != fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%5000)) {
			t.Fatalf("line %d is %q", i, s)
		}
	}
}

// childFillsTheDisk appends to a log in a process that may write 1000 bytes to a
// file, then in one that may write more.
func childFillsTheDisk(path string) {
	fail := func(err error) {
		fmt.Println(err)
		os.Exit(1)
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		fail(err)
	}
	l, err := OpenLog(path)
	if err != nil {
		fail(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1000, Max: was.Max}); err != nil {
		fail(err)
	}
	line := bytes.Repeat([]byte("x"), 299)
	n := 0
	for ; err == nil; n++ {
		err = l.Append(line)
	}
	if n != 4 || !errors.Is(err, syscall.EFBIG) {
		fail(fmt.Errorf("append %d: %w", n, err))
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		fail(err)
	}
	if err := l.Append([]byte("room again")); err != nil {
		fail(err)
	}
	fmt.Println("done")
	os.Exit(0)
}

func TestH2_AShortWriteLeavesNoTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	_, said := child(t, "full", path)
	if got := line(t, said); got != "done" {
		t.Fatal(got)
	}
	b, err := os.ReadFile(path)
	want := strings.Repeat(strings.Repeat("x", 299)+"\n", 3) + "room again\n"
	if err != nil || string(b) != want {
		t.Errorf("%d bytes, want %d: %v", len(b), len(want), err)
	}
}

func TestALogWhoseEndIsTornTakesNothing(t *testing.T) {
	// Writes to /dev/full fail, and it cannot be cut.
	l := open(t, "/dev/full")
	if err := l.Append([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full disk: %v", err)
	}
	for _, err := range []error{l.Append([]byte("y")), l.Sync()} {
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "restart") {
			t.Errorf("after that: %v", err)
		}
	}
}

func TestLogRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	l := open(t, path)
	for _, bad := range []string{"\n", "a\nb", "a\n"} {
		if err := l.Append([]byte(bad)); !errors.Is(err, top.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := l.Append([]byte("good")); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	calls := 0
	if err := l.Each(func([]byte) error { calls++; return stop }); err != stop || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]byte("late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "good\n" {
		t.Errorf("%q %v", b, err)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "none", "log")} {
		if _, err := OpenLog(bad); err == nil || !strings.Contains(err.Error(), "open log") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := EachLine(filepath.Join(dir, "none"), func([]byte) error { return stop }); err != nil {
		t.Errorf("no file: %v", err)
	}
	if err := EachLine(dir, func([]byte) error { return stop }); err == nil {
		t.Error("a folder reads as a log")
	}
}

func TestEachWhileOthersAppend(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "log"))
	const writers, each = 4, 200
	line := func(w, n int) string { return fmt.Sprintf("%d %d %s.", w, n, strings.Repeat("x", n*7)) }
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				if err := l.Append([]byte(line(w, n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for last := false; ; {
		var next [writers]int
		total := 0
		for _, s := range lines(t, l.Each) {
			var w, n int
			if _, err := fmt.Sscan(s, &w, &n); err != nil || w >= writers || n != next[w] || s != line(w, n) {
				t.Fatalf("%q is not the next line of a writer: %v", s, err)
			}
			next[w]++
			total++
		}
		if last {
			if total != writers*each {
				t.Errorf("%d lines, want %d", total, writers*each)
			}
			return
		}
		select {
		case <-done:
			last = true
		default:
		}
	}
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("a\nb\ntorn"))
	f.Add([]byte(""))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Append([]byte("new")); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(append(lines(t, l.Each), ""), "\n")
		if want := string(b[:bytes.LastIndexByte(b, '\n')+1]) + "new\n"; got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}
