package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"top/lib/pipe"
	"top/lib/tool/tooltest"
	"top/lib/top"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"top-demo": func() { os.Exit(Main(demo(), os.Args, os.Stdin, os.Stdout, os.Stderr)) },
	})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: os.Getenv("UPDATE") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": tooltest.Exits},
	})
}

// demo is a tool with a verb for each thing that a verb may do.
func demo() App {
	return App{
		Name: "top-demo", Summary: "show what a tool can do", Doc: "It does nothing else.",
		Verbs: []Verb{
			payVerb(), failVerb(), passVerb(), getVerb(),
			{Name: "sum", Summary: "count records", Args: []Arg{{Name: "FILE", Optional: true}}, Run: sum},
			{Name: "flood", Summary: "print for ever", Run: func(_ context.Context, c *Call) error {
				for {
					if err := c.Emit(map[string]string{"type": "drop"}, "drop"); err != nil {
						return fmt.Errorf("flood: %v", err) // its kind is lost
					}
				}
			}},
			{Name: "wait", Summary: "wait to be told", Flags: []Flag{{Name: "last-word"}}, Run: func(ctx context.Context, c *Call) error {
				c.Info("waiting")
				<-ctx.Done()
				if s := c.String("last-word"); s != "" {
					return top.Errorf(top.Failed, "%s", s)
				}
				return ctx.Err()
			}},
			{Name: "serve", Summary: "run a daemon", Serve: true, Run: func(ctx context.Context, c *Call) error {
				c.Log.Info("began", "room", "demo")
				if err := c.Ready(); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			}},
			{Name: "work", Summary: "show progress", Run: func(_ context.Context, c *Call) error {
				p := c.Progress("working", 2)
				p.At(2)
				c.Info("worked")
				c.Log.Debug("detail")
				return c.Emit(map[string]string{"type": "done"}, "done by \x1b[31mred\x1b[0m")
			}},
			{Name: "budget", Summary: "limits", Verbs: []Verb{
				{Name: "set", Summary: "set one", Args: []Arg{{Name: "SERVICE"}}, Flags: []Flag{{Name: "per-day", Kind: Amount}}, Run: func(_ context.Context, c *Call) error {
					return c.Emit(nil, "budget %s %s", c.Arg(0), c.Amount("per-day"))
				}},
			}},
			{Name: "secret", Summary: "not shown", Hidden: true, Run: func(context.Context, *Call) error { return nil }},
		},
		DoctorFlags: []Flag{{Name: "ill", Kind: Bool}},
		Doctor: func(_ context.Context, c *Call) ([]Check, error) {
			checks := []Check{{Name: "disk", State: OK, Detail: "free"}}
			if c.Bool("ill") {
				checks = append(checks, Check{Name: "daemon", State: Bad, Detail: "silent", Fix: "top-demo serve"})
			}
			return checks, nil
		},
	}
}

type paid struct {
	Type string     `json:"type"`
	Args []string   `json:"args"`
	Dry  bool       `json:"dry"`
	Memo string     `json:"memo"`
	Fee  top.Amount `json:"fee"`
	N    int        `json:"count"`
	Wait string     `json:"wait"`
	Tags []string   `json:"tags"`
}

func payVerb() Verb {
	return Verb{
		Name: "pay", Summary: "pay somebody", Doc: "It pays nobody.",
		Args: []Arg{{Name: "TO", Help: "whom"}, {Name: "AMOUNT", Help: "how much", Optional: true, Many: true}},
		Flags: []Flag{
			{Name: "dry-run", Short: "n", Kind: Bool, Help: "say what would happen"},
			{Name: "memo", Short: "m", Help: "a remark"},
			{Name: "fee", Kind: Amount, Default: "0.5", Help: "at most"},
			{Name: "count", Short: "c", Kind: Int, Default: "3", Help: "how often"},
			{Name: "wait", Kind: Duration, Default: "5s", Help: "how long"},
			{Name: "tag", Short: "t", Kind: Strings, Help: "a word; may repeat"},
		},
		Records: []string{"paid"}, Examples: []string{"top-demo pay bob 1"},
		Run: func(_ context.Context, c *Call) error {
			p := paid{"paid", c.Args, c.Bool("dry-run"), c.String("memo"), c.Amount("fee"), c.Int("count"), c.Duration("wait").String(), c.Strings("tag")}
			return c.Emit(p, "pay %q dry=%v memo=%q fee=%s count=%d wait=%s tags=%q", p.Args, p.Dry, p.Memo, p.Fee, p.N, p.Wait, p.Tags)
		},
	}
}

func failVerb() Verb {
	return Verb{
		Name: "fail", Summary: "fail in one way", Args: []Arg{{Name: "HOW"}},
		Run: func(ctx context.Context, c *Call) error {
			c.Info("about to fail")
			switch how := c.Arg(0); how {
			case "child":
				return fmt.Errorf("child: %w", exec.Command("sh", "-c", "exit 9").Run())
			case "bare":
				return top.ErrDenied
			case "plain":
				return errors.New("disk on fire")
			case "retry":
				return &top.Error{Kind: top.Busy, Message: "queue <full>", RetryAfter: 1500 * time.Millisecond}
			case "broken-pipe":
				return fmt.Errorf("peer: %w", syscall.EPIPE)
			default:
				return fmt.Errorf("outer: %w", fmt.Errorf("inner %s: %w", how, top.Kind(how).Err()))
			}
		},
	}
}

func passVerb() Verb {
	return Verb{
		Name: "pass", Summary: "read a passphrase and one record", Flags: PassphraseFlags(),
		Run: func(_ context.Context, c *Call) error {
			b, err := c.Passphrase("passphrase", os.ReadFile)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(c.In)
			if err != nil {
				return err
			}
			return c.Emit(nil, "passphrase %q stdin %q", strings.ToUpper(string(b)), data)
		},
	}
}

func getVerb() Verb {
	return Verb{
		Name: "get", Summary: "deliver bytes", Binary: true, Flags: []Flag{{Name: "break", Kind: Bool}},
		Run: func(_ context.Context, c *Call) error {
			return c.Output(func(w io.Writer) error {
				io.WriteString(w, strings.Repeat("raw\x00", 100_000))
				if c.Bool("break") {
					return top.Errorf(top.Offline, "the peer went away half way")
				}
				return nil
			})
		},
	}
}

func sum(_ context.Context, c *Call) error {
	in, err := c.Input(c.Arg(0))
	if err != nil {
		return err
	}
	defer in.Close()
	c.Info("reading")
	n := 0
	for r := pipe.NewReader(in); ; n++ {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return c.Emit(map[string]int{"n": n}, "%d", n)
		} else if err != nil {
			return err
		}
	}
}
