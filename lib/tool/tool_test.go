package tool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"top/lib/top"
)

// tryApp runs an app on a command line without a process.
func tryApp(app App, args ...string) (code int, stdout, stderr string) {
	var out, errw bytes.Buffer
	code = Main(app, append([]string{app.Name}, args...), strings.NewReader(""), &out, &errw)
	return code, out.String(), errw.String()
}

func noEnv(string) string { return "" }

func TestD1_AFlagMeansTheSameBeforeAndAfterOperands(t *testing.T) {
	flags := [][]string{{"--dry-run"}, {"--memo", "tea"}, {"-c", "4"}, {"--tag=a"}, {"-q"}, {"--timeout", "1s"}}
	operands := []string{"bob", "1", "-2", "-"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		// One verb, the operands in order, the flags anywhere behind it.
		slots := make([]bool, len(flags)+len(operands))
		for _, i := range rng.Perm(len(slots))[:len(flags)] {
			slots[i] = true
		}
		args, f, o := []string{"pay"}, rng.Perm(len(flags)), 0
		for _, isFlag := range slots {
			if isFlag {
				args, f = append(args, flags[f[0]]...), f[1:]
			} else {
				args, o = append(args, operands[o]), o+1
			}
		}
		p, err := parse(demo(), args, noEnv)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		slices.Sort(p.flags)
		want := []string{"--count=4", "--dry-run=true", "--memo=tea", "--quiet=true", "--tag=a", "--timeout=1s"}
		if !slices.Equal(p.flags, want) || !slices.Equal(p.operands, operands) {
			t.Fatalf("%q: flags %q, operands %q", args, p.flags, p.operands)
		}
	}
}

func TestD2_StdoutCarriesDataOnly(t *testing.T) {
	for _, args := range [][]string{
		{}, {"pya"}, {"pay"}, {"pay", "--frob"}, {"pay", "bob", "--count", "x"}, {"fail", "denied"}, {"fail", "offline", "-v"},
		{"budget"}, {"completion", "tcsh"}, {"sum", "/nowhere"}, {"fail", "failed", "--json"}, {"--timeout"}, {"pay", "--help=x", "bob", "--frob"},
	} {
		code, stdout, stderr := tryApp(demo(), args...)
		if code == 0 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
	for _, args := range [][]string{{"pay", "bob", "--json", "-v"}, {"work", "--json", "-v"}, {"doctor", "--json"}, {"--describe"}} {
		code, stdout, _ := tryApp(demo(), args...)
		var record struct{ Type string }
		line, rest, _ := strings.Cut(stdout, "\n")
		if err := json.Unmarshal([]byte(line), &record); code != 0 || err != nil || record.Type == "" || rest != "" {
			t.Errorf("%q: exit %d, stdout %q: %v", args, code, stdout, err)
		}
	}
}

// coded is an error that urfave/cli would take for its own.
type coded struct{ error }

func (coded) ExitCode() int   { return 77 }
func (c coded) Unwrap() error { return c.error }

func TestD3_TheKindAloneDecidesTheExit(t *testing.T) {
	want := map[top.Kind]int{
		top.Failed: 1, top.Usage: 2, top.Invalid: 2, top.NotFound: 3, top.Denied: 4, top.Offline: 5, top.Busy: 6, top.Timeout: 124,
	}
	if len(top.Kinds()) != len(want) {
		t.Fatalf("kinds %q, this test knows %d", top.Kinds(), len(want))
	}
	for kind, exit := range want {
		for name, err := range map[string]error{
			"bare":    kind.Err(),
			"made":    top.Errorf(kind, "because"),
			"wrapped": fmt.Errorf("a: %w", fmt.Errorf("b: %w", kind.Err())),
			"joined":  errors.Join(io.EOF, top.Errorf(kind, "because")),
			"coded":   coded{fmt.Errorf("a: %w", kind.Err())},
			"cli":     fmt.Errorf("%w: %w", cli.Exit("x", 78), kind.Err()),
		} {
			app := App{Name: "top-x", Verbs: []Verb{{Name: "do", Run: func(context.Context, *Call) error { return err }}}}
			if code, _, stderr := tryApp(app, "do"); code != exit || !strings.HasPrefix(stderr, "top-x: "+string(kind)) {
				t.Errorf("%s %s: exit %d, want %d; stderr %q", kind, name, code, exit, stderr)
			}
		}
	}
}

// TestADaemonThatIsNeverReady is given up by --timeout; one that was has run for as long
// as it should.
func TestADaemonThatIsNeverReady(t *testing.T) {
	for ready, want := range map[bool]int{false: 124, true: 0} {
		app := demo()
		app.Verbs = []Verb{{Name: "serve", Summary: "run a daemon", Serve: true, Run: func(ctx context.Context, c *Call) error {
			if ready {
				if err := c.Ready(); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return nil
		}}}
		code, _, stderr := tryApp(app, "serve", "--timeout", "10ms")
		if code != want || strings.Contains(stderr, "not ready after 10ms (--timeout)") == ready {
			t.Errorf("ready %v: exit %d, %q", ready, code, stderr)
		}
	}
}

// urfave/cli answers a missing Required flag with its own help and a code of
// its own, so no flag may be one.
func TestNoFlagIsRequired(t *testing.T) {
	for _, v := range demo().Verbs {
		for _, f := range flagsOf(&v) {
			if r, ok := f.(cli.RequiredFlag); !ok || r.IsRequired() {
				t.Errorf("%s: flag %s is required", v.Name, f.Names()[0])
			}
		}
	}
}

func TestTablesWithMistakesAreRefused(t *testing.T) {
	run := func(context.Context, *Call) error { return nil }
	flag := func(f ...Flag) Verb { return Verb{Name: "do", Run: run, Flags: f} }
	for name, v := range map[string][]Verb{
		"nothing to run":        {{Name: "do"}},
		"run and verbs":         {{Name: "do", Run: run, Verbs: []Verb{{Name: "it", Run: run}}}},
		"twice":                 {{Name: "do", Run: run}, {Name: "do", Run: run}},
		"help":                  {{Name: "help", Run: run}},
		"no name":               {{Run: run}},
		"below":                 {{Name: "do", Verbs: []Verb{{Name: "it"}}}},
		"optional before":       {{Name: "do", Run: run, Args: []Arg{{Name: "A", Optional: true}, {Name: "B"}}}},
		"many before":           {{Name: "do", Run: run, Args: []Arg{{Name: "A", Many: true}, {Name: "B"}}}},
		"flag of all":           {flag(Flag{Name: "json"})},
		"flag twice":            {flag(Flag{Name: "ab"}, Flag{Name: "ab"})},
		"short of all":          {flag(Flag{Name: "version-of", Short: "v"})},
		"short of help":         {flag(Flag{Name: "host", Short: "h"})},
		"short is long":         {flag(Flag{Name: "host", Short: "ho"})},
		"long is short":         {flag(Flag{Name: "x"})},
		"upper case":            {flag(Flag{Name: "Host"})},
		"default of wrong kind": {flag(Flag{Name: "host", Kind: Int, Default: "many"})},
		"default of a switch":   {flag(Flag{Name: "host", Kind: Bool, Default: "true"})},
		"secret":                {flag(Flag{Name: "passphrase"})},
		"secret within":         {flag(Flag{Name: "new-password"})},
	} {
		if err := (App{Name: "top-x", Verbs: v}).check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := demo().check(); err != nil {
		t.Error(err)
	}
}

func TestDescribeTellsAll(t *testing.T) {
	_, stdout, _ := tryApp(demo(), "--describe")
	var d Description
	dec := json.NewDecoder(strings.NewReader(stdout))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range d.Verbs {
		names = append(names, v.Name)
	}
	want := []string{"pay", "fail", "pass", "get", "sum", "flood", "wait", "serve", "work", "budget set", "doctor", "completion"}
	if !slices.Equal(names, want) {
		t.Errorf("verbs %q, want %q", names, want)
	}
	if pay := d.Verbs[0]; !reflect.DeepEqual(pay.Records, []string{"paid"}) || len(pay.Flags) != 6 || pay.Flags[2] != (FlagRecord{"fee", "", "amount", "0.5", "TOP_DEMO_FEE", "at most"}) {
		t.Errorf("pay: %+v", pay)
	}
	exits := map[int]bool{}
	for _, e := range d.Exits {
		exits[e.Exit] = true
	}
	for _, e := range []int{0, 1, 2, 3, 4, 5, 6, 124, 130, 141, 143} {
		if !exits[e] {
			t.Errorf("exit %d is not described", e)
		}
	}
	if d.Contract != top.Contract || len(d.Flags) != len(shared()) {
		t.Errorf("contract %d, %d shared flags", d.Contract, len(d.Flags))
	}
}

func TestAFlagThatIsNotDeclaredIsABug(t *testing.T) {
	app := App{Name: "top-x", Verbs: []Verb{{Name: "do", Run: func(_ context.Context, c *Call) error {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		return top.Errorf(top.Failed, "%s", c.String("frob"))
	}}}}
	tryApp(app, "do")
}

func TestMainTakesNoArgumentsAtAll(t *testing.T) {
	var out, errw bytes.Buffer
	if code := Main(demo(), nil, strings.NewReader(""), &out, &errw); code != 2 || out.Len() > 0 {
		t.Errorf("exit %d, stdout %q", code, &out)
	}
}

// Reads of stdin that end with the context give its error, and what was read
// before is kept.
func TestInputEndsWithTheContext(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in := newInput(ctx, r)
	w.WriteString("half")
	b := make([]byte, 9)
	if n, err := in.Read(b); string(b[:n]) != "half" || err != nil {
		t.Fatalf("%q, %v", b[:n], err)
	}
	cancel()
	if n, err := in.Read(b); n != 0 || !errors.Is(err, context.Canceled) {
		t.Fatalf("%d, %v", n, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"pay bob -n", "pay -nc4 -- -x", "budget set web --per-day=1", "--json pay - --memo --", "pay -5 -c=-5 --tag a\n", "help pay", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := parse(demo(), strings.Split(line, " "), noEnv)
		if err != nil {
			if top.KindOf(err) != top.Usage {
				t.Fatalf("%q: %v", line, err)
			}
			return
		}
		if p.help || p.version || p.describe {
			return
		}
		// What was understood, written in the plainest order, is understood alike.
		again, err := parse(demo(), slices.Concat(p.path, p.line()[1:]), noEnv)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if !slices.Equal(p.flags, again.flags) || !slices.Equal(p.operands, again.operands) || !maps.Equal(p.given, again.given) {
			t.Fatalf("%q: %+v, then %+v", line, p, again)
		}
	})
}
