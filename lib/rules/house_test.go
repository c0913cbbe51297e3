package rules

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A house is the tree as text, and its Go files parsed.
type house struct {
	files map[string]string // by path, "lib/top/top.go"
	gos   []source
	fset  *token.FileSet
}

// A source is one Go file.
type source struct {
	path string
	room string // "lib/top", "cmd/top-wallet"
	test bool
	*ast.File
}

// A breach is one place where a rule does not hold.
type breach struct {
	rule    string // of waivers.txt: "import", "file", …
	subject string // what a waiver names
	size    int    // of what has a limit
	why     string
}

// build parses a tree.
func build(files map[string]string) (*house, error) {
	h := &house{files: files, fset: token.NewFileSet()}
	for name, text := range files {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		f, err := parser.ParseFile(h.fset, name, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		h.gos = append(h.gos, source{name, path.Dir(name), strings.HasSuffix(name, "_test.go"), f})
	}
	slices.SortFunc(h.gos, func(a, b source) int { return cmp.Compare(a.path, b.path) })
	return h, nil
}

const root = "../.."

// ours reads this tree: every text file that is not hidden or built.
func ours(t *testing.T) *house {
	t.Helper()
	h, err := theHouse()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var theHouse = sync.OnceValues(func() (*house, error) {
	files := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == "bin" || name == ".git"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() > 1<<20 {
			return err
		}
		b, err := os.ReadFile(p)
		if err == nil && !strings.Contains(string(b), "\x00") {
			files[filepath.ToSlash(name)] = string(b)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return build(files)
})

// rooms are the folders with Go code that is not for tests.
func (h *house) rooms() (all []string) {
	for _, s := range h.gos {
		if !s.test {
			all = append(all, s.room)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (h *house) at(pos token.Pos) string {
	p := h.fset.Position(pos)
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// A waiver allows one breach, up to a limit.
type waiver struct {
	rule, subject string
	limit         int // 0 when the rule has none
	reason        string
	line          int
}

// waivers reads lines of rule, subject, limit or "-", and reason.
func waivers(text string) (all []waiver, err error) {
	for i, line := range strings.Split(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		part := strings.SplitN(line, " ", 4)
		if len(part) < 4 || len(part[3]) < 10 {
			return nil, fmt.Errorf("waivers.txt:%d: want RULE SUBJECT LIMIT REASON", i+1)
		}
		w := waiver{part[0], part[1], 0, part[3], i + 1}
		if part[2] != "-" {
			if w.limit, err = strconv.Atoi(part[2]); err != nil {
				return nil, fmt.Errorf("waivers.txt:%d: limit %q", i+1, part[2])
			}
		}
		all = append(all, w)
	}
	return all, nil
}

func (w waiver) covers(b breach) bool {
	return w.rule == b.rule && w.subject == b.subject && (w.limit == 0 && b.size == 0 || b.size > 0 && b.size <= w.limit)
}

func ourWaivers(t *testing.T) []waiver {
	t.Helper()
	b, err := os.ReadFile("waivers.txt")
	if err != nil {
		t.Fatal(err)
	}
	all, err := waivers(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// hold wants no breach that nobody waived.
func hold(t *testing.T, breaches []breach) {
	t.Helper()
	all := ourWaivers(t)
	for _, b := range breaches {
		if !slices.ContainsFunc(all, func(w waiver) bool { return w.covers(b) }) {
			t.Errorf("%s %s: %s", b.rule, b.subject, b.why)
		}
	}
}

// catches wants a rule to find what is wrong with a tree of one file, and nothing
// in the same tree with good in the place of bad.
func catches(t *testing.T, rule func(*house) []breach, name, file, bad, good string) {
	t.Helper()
	for text, want := range map[string]bool{bad: true, good: false} {
		h, err := build(map[string]string{file: text})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := rule(h); len(got) > 0 != want {
			t.Errorf("%s: %q: found %v", name, text, got)
		}
	}
}

// sourceRules are the rules that read the tree alone; R15 asks all of them.
func sourceRules() map[string]func(*house) []breach {
	return map[string]func(*house) []breach{
		"R1": importsPointDown, "R2": oneRoomEach, "R3": pureRooms, "R4": plainNames, "R6": packageComments, "R7": sizes,
		"R8": noGlobals, "R9": testsWait, "R10": goodRandomness, "R11": ownWords, "R12": documents,
		"R14": mainOwnsTheProcess,
	}
}

func TestR15_AWaiverIsNeeded(t *testing.T) {
	h, all := ours(t), ourWaivers(t)
	var breaches []breach
	for _, rule := range sourceRules() {
		breaches = append(breaches, rule(h)...)
	}
	breaches = append(breaches, licences(linked(t))...)
	for _, w := range all {
		if !slices.ContainsFunc(breaches, w.covers) {
			t.Errorf("waivers.txt:%d: %s %s is not needed any more", w.line, w.rule, w.subject)
		}
	}
	t.Logf("%d waivers", len(all))
	for _, text := range []string{"file lib/x 5", "file lib/x many because of that", "file lib/x - short"} {
		if got, err := waivers(text); err == nil {
			t.Errorf("%q: accepted as %+v", text, got)
		}
	}
	w := waiver{rule: "file", subject: "a.go", limit: 600}
	for size, want := range map[int]bool{501: true, 600: true, 601: false} {
		if got := w.covers(breach{rule: "file", subject: "a.go", size: size}); got != want {
			t.Errorf("a limit of 600 covers %d: %v", size, got)
		}
	}
}
