// Package tool is the front door of every binary: verbs and flags as plain
// structs, one way to parse them, one vocabulary of exit codes, records or text
// on stdout and everything else on stderr (docs/contract.md).
//
// It is the only room that knows urfave/cli, and it mends in one place what
// that library does otherwise than the contract says.
//
//	D1  a flag means the same before and after operands
//	D2  stdout carries data only: usage, errors and progress go to stderr
//	D3  an error's kind alone decides the exit code
//	D4  a secret comes from a file, a descriptor or the terminal, never from
//	    stdin, a flag or the environment
package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"top/lib/top"
)

// An App is one binary.
type App struct {
	Name    string // "top-wallet"
	Summary string // one line
	Doc     string // a few paragraphs, for help
	Verbs   []Verb
	// Doctor looks at what the tool needs; nil leaves the verb out.
	Doctor func(context.Context, *Call) ([]Check, error)
	// DoctorFlags are the flags of the verb doctor.
	DoctorFlags []Flag
}

// A Verb is one thing that a tool does.
type Verb struct {
	Name     string
	Summary  string   // one line
	Doc      string   // more, for help
	Args     []Arg    // operands in order
	Flags    []Flag   // besides those of every verb
	Examples []string // command lines
	Records  []string // types of the records that --json prints
	Serve    bool     // a daemon: SIGINT and SIGTERM end it with exit 0
	Binary   bool     // delivers raw bytes, by Call.Output: has -o, refuses a terminal
	Hidden   bool
	Verbs    []Verb // "budget set": a verb with verbs has no Run
	Run      func(context.Context, *Call) error
}

// An Arg is one operand.
type Arg struct {
	Name     string // "TO"
	Help     string
	Optional bool
	Many     bool // the last may repeat
}

// FlagKind is the type of a flag's value.
type FlagKind int

// The kinds of flags.
const (
	String FlagKind = iota
	Bool
	Int
	Duration
	Amount // TOP with at most 9 decimals
	Strings
)

func (k FlagKind) String() string {
	return [...]string{"string", "bool", "int", "duration", "amount", "strings"}[k]
}

// A Flag is one option. Its environment variable is TOP_TOOL_FLAG; an empty one
// counts as absent. Of a flag that is given twice the last value holds, but one
// of kind Strings keeps all.
type Flag struct {
	Name    string // long, without dashes
	Short   string // one letter, or ""
	Help    string
	Default string // as it would be written; a Bool and Strings have none
	Kind    FlagKind
}

// shared are the flags of every verb.
func shared() []Flag {
	return []Flag{
		{Name: "json", Kind: Bool, Help: "print records (NDJSON) instead of text"},
		{Name: "quiet", Short: "q", Kind: Bool, Help: "no progress and no remarks on stderr"},
		{Name: "verbose", Short: "v", Kind: Bool, Help: "log to stderr what happens"},
		{Name: "timeout", Kind: Duration, Help: "give up after this long (exit 124); 0 never"},
		{Name: "home", Help: "where files and sockets live (TOP_HOME, else ~/.top)"},
	}
}

// Main runs the tool and gives its exit code.
func Main(app App, args []string, in io.Reader, out, errw io.Writer) int {
	app.Verbs = slices.Clone(app.Verbs)
	if app.Doctor != nil {
		app.Verbs = append(app.Verbs, doctorVerb(app))
	}
	app.Verbs = append(app.Verbs, completionVerb(app))
	if err := app.check(); err != nil {
		panic("tool: " + app.Name + ": " + err.Error())
	}
	p, err := parse(app, args[min(1, len(args)):], os.Getenv)
	c := &Call{app: app, In: in, Err: errw, stdout: &output{w: out}, verb: p.verb, path: p.path, JSON: p.json}
	c.Out = c.stdout
	if err == nil {
		err = dispatch(app, p, c)
	}
	return c.exit(err)
}

// dispatch runs what was parsed: help, the description, or a verb by way of
// urfave/cli.
func dispatch(app App, p *parsed, c *Call) error {
	switch {
	case p.version:
		_, err := fmt.Fprintf(c.Out, "%s %s\n", app.Name, top.Version)
		return err
	case p.describe:
		return describe(app, c.Out)
	case p.help:
		_, err := io.WriteString(c.Out, help(app, p.path, p.verb))
		return err
	}
	ctx, done := c.signals(p.verb.Serve)
	defer done()
	return command(app, p, c).RunContext(ctx, append([]string{app.Name}, p.line()...))
}

// command is the urfave/cli application for one parsed command line.
func command(app App, p *parsed, c *Call) *cli.App {
	cmd := &cli.Command{
		Name: "run", HideHelp: true, Flags: flagsOf(p.verb),
		Action: func(x *cli.Context) error { return c.run(x, p.verb) },
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return top.Errorf(top.Usage, "%v", err)
		},
	}
	return &cli.App{
		Name: app.Name, HideHelp: true, HideVersion: true, Commands: []*cli.Command{cmd},
		Writer: io.Discard, ErrWriter: io.Discard,
		ExitErrHandler:            func(*cli.Context, error) {},
		DisableSliceFlagSeparator: true,
	}
}

// flagsOf declares the flags of a verb. Values stay text, so that Call reads
// them by the rules by which parse checked them; parse reads the environment.
func flagsOf(v *Verb) (flags []cli.Flag) {
	for _, f := range allFlags(v) {
		switch f.Kind {
		case Bool:
			flags = append(flags, &cli.BoolFlag{Name: f.Name})
		case Strings:
			flags = append(flags, &cli.StringSliceFlag{Name: f.Name, KeepSpace: true})
		default:
			flags = append(flags, &cli.StringFlag{Name: f.Name})
		}
	}
	return flags
}

// envName is TOP_RELAY_LISTEN for --listen of top-relay.
func envName(app, flag string) string {
	return strings.ToUpper(strings.ReplaceAll(app+"_"+flag, "-", "_"))
}

func allFlags(v *Verb) []Flag {
	all := shared()
	if v == nil {
		return all
	}
	if v.Serve {
		all = append(all, Flag{Name: "ready-fd", Kind: Int, Help: "write a newline to this descriptor once the socket answers, then close it"})
	}
	if out := OutputFlag(); v.Binary && !slices.ContainsFunc(v.Flags, func(f Flag) bool { return f.Name == out.Name }) {
		all = append(all, out)
	}
	return append(all, v.Flags...)
}

// signals gives a context that ends on SIGINT and SIGTERM and remembers which.
// A second signal kills at once.
func (c *Call) signals(serve bool) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	// Caught, a reader that went away shows as an error of Write instead of a
	// death; ignored, it would be ignored in the programs that we start too.
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	ch, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(done)
		if s, ok := <-ch; ok && !serve {
			c.sig.Store(int32(s.(syscall.Signal)))
		}
		signal.Stop(ch)
		cancel()
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(ch)
		<-done
		signal.Stop(gone)
	}
}

// run is the action of every verb.
func (c *Call) run(x *cli.Context, v *Verb) error {
	c.x, c.Args = x, x.Args().Slice()
	level := slog.LevelError + 4
	switch {
	case c.Bool("verbose"):
		level = slog.LevelDebug
	case v.Serve && !c.Bool("quiet"):
		level = slog.LevelInfo
	}
	c.Log = slog.New(slog.NewTextHandler(prefixed{c.Err, c.app.Name + ": "}, &slog.HandlerOptions{Level: level, ReplaceAttr: shortTime}))
	if c.flagged("ready-fd") && c.Set("ready-fd") {
		f, err := c.inherited("ready-fd")
		if err != nil {
			return err
		}
		c.ready.to = f
	}
	ctx := x.Context
	if d := c.Duration("timeout"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	c.until = func(r io.Reader) *input { return newInput(ctx, r) }
	c.In = c.until(c.In)
	return c.outcome(ctx, v.Run(ctx, c))
}

// outcome says what the end of the context made of a verb's error.
func (c *Call) outcome(ctx context.Context, err error) error {
	kind, late := top.KindOf(err), errors.Is(ctx.Err(), context.DeadlineExceeded)
	switch {
	case ctx.Err() == nil || c.sig.Load() != 0:
		return err
	case err == nil && late && c.verb.Serve && !c.ready.said.Load():
		return top.Errorf(top.Timeout, "not ready after %s (--timeout)", c.Duration("timeout"))
	case err == nil:
		return nil
	case late && (kind == top.Failed || kind == top.Offline || kind == top.Timeout):
		detail := ""
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			detail = ": " + text(err, kind)
		}
		return top.Errorf(top.Timeout, "not done after %s (--timeout)%s", c.Duration("timeout"), detail)
	case errors.Is(err, context.Canceled):
		return nil // a daemon that was told to end
	}
	return err
}

func shortTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		a.Value = slog.StringValue(a.Value.Time().UTC().Format("15:04:05.000"))
	}
	return a
}

// exit reports err and gives its exit code (D3).
func (c *Call) exit(err error) int {
	sig := syscall.Signal(c.sig.Load())
	kind := top.KindOf(err)
	switch {
	case err == nil:
		return 0
	case c.stdout.gone.Load():
		return 128 + int(syscall.SIGPIPE)
	case sig != 0:
		word := map[bool]string{true: "terminated", false: "interrupted"}[sig == syscall.SIGTERM]
		if bare := errors.Is(err, context.Canceled); !bare {
			word += ": " + text(err, kind)
		} else if !c.JSON {
			return 128 + int(sig)
		}
		c.report(&top.Error{Kind: kind, Message: word}, 128+int(sig))
		return 128 + int(sig)
	}
	c.report(err, kind.Exit())
	return kind.Exit()
}

// text is an error's text without the words of its kind, which stand elsewhere.
func text(err error, kind top.Kind) string {
	s := strings.TrimSuffix(err.Error(), ": "+string(kind))
	return strings.TrimPrefix(s, string(kind)+": ")
}

// value reads a flag's text by its kind; what is not of the kind is an error.
func (f Flag) value(s string) (any, error) {
	var v any
	var err error
	switch f.Kind {
	case Bool:
		v, err = strconv.ParseBool(s)
	case Int:
		v, err = strconv.Atoi(s)
	case Duration:
		d, bad := parseDuration(s)
		if bad == nil && d < 0 {
			return nil, fmt.Errorf("%s is less than no time", s)
		}
		v, err = d, bad
	case Amount:
		v, err = top.ParseAmount(s)
		if err != nil {
			return nil, errors.New(text(err, top.KindOf(err)))
		}
	default:
		v = s
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not a value of kind %s", s, f.Kind)
	}
	return v, nil
}

// parseDuration reads what time.ParseDuration does, and days before it: "30d",
// "1d12h". A day is 24 hours.
func parseDuration(s string) (time.Duration, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil || rest == "" {
		return time.Duration(n) * 24 * time.Hour, err
	}
	d, err := time.ParseDuration(rest)
	return time.Duration(n)*24*time.Hour + d, err
}
