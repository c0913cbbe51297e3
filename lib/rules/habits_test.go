package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var fixedPort = regexp.MustCompile(`(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]):[1-9][0-9]*|/(tcp|udp)/[1-9][0-9]*`)

// testsWait looks at Go tests and at scripts of testscript.
func testsWait(h *house) (found []breach) {
	add := func(path, at, what string) {
		found = append(found, breach{rule: "wait", subject: path, why: at + ": " + what})
	}
	for _, s := range h.gos {
		helper := strings.HasSuffix(s.room, "test") || s.room == "lib/testnet"
		if !s.test && !helper || s.room == "lib/rules" {
			continue
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if is(n, "time", "Sleep") {
					add(s.path, h.at(n.Pos()), "sleeps; wait for the event")
				}
				if isOne(n.Sel.Name, "Skip Skipf SkipNow") || is(n, "testing", "Short") {
					add(s.path, h.at(n.Pos()), "skips; a test holds everywhere or is none")
				}
			case *ast.BasicLit:
				if n.Kind == token.STRING && fixedPort.MatchString(n.Value) {
					add(s.path, h.at(n.Pos()), "names a port; listen on :0")
				}
			}
			return true
		})
	}
	for name, text := range h.files {
		if !strings.HasSuffix(name, ".txtar") {
			continue
		}
		script, _, _ := strings.Cut(text, "\n-- ")
		for i, line := range strings.Split(script, "\n") {
			switch line = strings.TrimSpace(line); {
			case regexp.MustCompile(`^(\[.*\] *)*(skip|stop)\b|^\[!?short\]`).MatchString(line):
				add(name, fmt.Sprintf("%s:%d", name, i+1), "skips")
			case regexp.MustCompile(`\bsleep\b`).MatchString(line) && !strings.HasPrefix(line, "#"):
				add(name, fmt.Sprintf("%s:%d", name, i+1), "sleeps")
			}
		}
	}
	return found
}

func TestR9_ATestWaitsForEvents(t *testing.T) {
	hold(t, testsWait(ours(t)))
	body := func(s string) string { return "package x; func f(t T) {" + s + "}" }
	for bad, good := range map[string]string{
		body("time.Sleep(1)"):                  body("time.After(1)"),
		body("t.Skip()"):                       body("t.Log()"),
		body(`t.Skipf("%d", 1)`):               body(`t.Logf("%d", 1)`),
		body("if testing.Short() {}"):          body("if testing.Verbose() {}"),
		body(`net.Listen("tcp", "[::]:8080")`): body(`net.Listen("tcp", "[::]:0")`),
		body(`dial("/ip4/1.2.3.4/tcp/26656")`): body(`dial("/ip4/1.2.3.4/tcp/0")`),
	} {
		catches(t, testsWait, bad, "lib/x/a_test.go", bad, good)
	}
	for bad, good := range map[string]string{
		"exec sleep 1\n": "exec true\n", "[short] exec x\n": "exec x\n", "[!exec:jq] skip\n": "[exec:jq] exec jq\n", "skip\n": "exec x\n-- a --\nskip\n",
	} {
		catches(t, testsWait, bad, "cmd/x/testdata/script/a.txtar", bad, good)
	}
}

// mainOwnsTheProcess keeps stdout for data and the exit code for the kind of the
// error: what a room has to say, it returns or logs.
func mainOwnsTheProcess(h *house) (found []breach) {
	for _, s := range h.gos {
		main := strings.HasPrefix(s.room, "cmd/") && strings.HasSuffix(s.path, "/main.go")
		if s.test || main || strings.HasSuffix(s.room, "test") {
			continue
		}
		add := func(pos token.Pos, what string) {
			found = append(found, breach{rule: "process", subject: s.path + "->" + what, why: h.at(pos) + ": " + what})
		}
		for _, i := range s.Imports {
			if name, _ := strconv.Unquote(i.Path.Value); isOne(name, "flag log io/ioutil unsafe plugin expvar net/http/pprof") {
				add(i.Pos(), name)
			}
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			switch {
			case !ok:
			case is(sel, "os", "Exit", "Args", "Stdin", "Stdout", "Stderr"), is(sel, "fmt", "Print", "Printf", "Println"),
				is(sel, "slog", "SetDefault", "Default", "Info", "Warn", "Error", "Debug"),
				is(sel, "os", "Getenv", "LookupEnv", "Environ") && s.room != "lib/tool":
				add(sel.Pos(), sel.X.(*ast.Ident).Name+"."+sel.Sel.Name)
			}
			return true
		})
	}
	return found
}

func TestR14_TheProcessBelongsToMain(t *testing.T) {
	hold(t, mainOwnsTheProcess(ours(t)))
	for bad, good := range map[string]string{
		`import _ "log"`:                                `import _ "log/slog"`,
		`import "os"; func f() { os.Exit(1) }`:          `import "os"; func f() { os.Remove("a") }`,
		`import "os"; var f = os.Getenv`:                `var f func(string) string`,
		`import "fmt"; func f() { fmt.Println() }`:      `import "fmt"; func f() { fmt.Sprintln() }`,
		`import "log/slog"; func f() { slog.Info("") }`: `import "log/slog"; func f(l *slog.Logger) { l.Info("") }`,
	} {
		catches(t, mainOwnsTheProcess, bad, "lib/x/a.go", "package x;"+bad, "package x;"+good)
		catches(t, mainOwnsTheProcess, bad, "cmd/top-x/a.go", "package x;"+bad, "package x;"+good)
	}
}

func goodRandomness(h *house) (found []breach) {
	for _, s := range h.gos {
		for _, i := range s.Imports {
			if name, _ := strconv.Unquote(i.Path.Value); !s.test && strings.HasPrefix(name, "math/rand") {
				found = append(found, breach{rule: "random", subject: s.path, why: h.at(i.Pos()) + ": imports " + name})
			}
		}
	}
	return found
}

func TestR10_RandomnessComesFromTheSystem(t *testing.T) {
	hold(t, goodRandomness(ours(t)))
	catches(t, goodRandomness, "v2", "lib/x/a.go", `package x; import _ "math/rand/v2"`, `package x; import _ "crypto/rand"`)
	catches(t, goodRandomness, "v1", "lib/x/a.go", `package x; import r "math/rand"`, `package x; import _ "math/bits"`)
}

// A smell is text that has no place in the tree. The patterns are written so
// that they do not match themselves.
var smells = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{"a path of a machine", regexp.MustCompile(`(^|[^[:alnum:]._~}-])/(wor[k]|far[m]|roo[t])/|/hom[e]/[a-z]+/`)},
	{"left undone", regexp.MustCompile(`\b(TOD[O]|FIXM[E]|XX[X]|HAC[K])\b`)},
	{"left undone", regexp.MustCompile(`(?i)\b(not (yet )?implemente[d]|unimplemente[d]|placeholde[r]|for no[w]\b|hard-?code[d]|temporar(y|il[y]) (fix|hack|solutio[n]))`)},
}

func ownWords(h *house) (found []breach) {
	for name, text := range h.files {
		// Checksums and vectors are nobody's words.
		if strings.HasSuffix(name, ".sum") || strings.Contains(name, "testdata/fuzz/") || strings.HasSuffix(name, ".svg") {
			continue
		}
		for i, line := range strings.Split(text, "\n") {
			for _, s := range smells {
				if m := s.pattern.FindString(line); m != "" {
					found = append(found, breach{rule: "words", subject: name, why: fmt.Sprintf("%s:%d: %s: %q", name, i+1, s.what, m)})
				}
			}
		}
	}
	return found
}

func TestR11_TheTreeSpeaksOfItselfAlone(t *testing.T) {
	hold(t, ownWords(ours(t)))
	for bad, good := range map[string]string{
		"see /wor" + "k/main":      "see homework/main",
		"in /hom" + "e/alice/net":  "in ~/net",
		"// TO" + "DO: later":      "// nothing to do later",
		"not yet impl" + "emented": "implemented",
		"a place" + "holder":       "a place to hold",
		"enough for n" + "ow":      "enough for nowhere",
		"cd /roo" + "t/x":          "the root/x",
	} {
		catches(t, ownWords, bad, "docs/x.md", bad, good)
	}
}
