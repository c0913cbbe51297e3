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
	"strings"
	"sync/atomic"
	"syscall"

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

// A Flag is one option. Its environment variable is TOP_TOOL_FLAG.
type Flag struct {
	Name    string // long, without dashes
	Short   string // one letter, or ""
	Help    string
	Default string // as it would be written
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
	if app.Doctor != nil {
		app.Verbs = append(app.Verbs, doctorVerb(app))
	}
	app.Verbs = append(app.Verbs, completionVerb(app))
	p, err := parse(app, args[1:])
	c := &Call{app: app, In: in, Out: out, Err: errw}
	if p != nil {
		c.verb, c.path, c.JSON = p.verb, p.path, p.json
	}
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
	case p.help || p.verb == nil || p.verb.Run == nil:
		_, err := io.WriteString(c.Out, help(app, p.path, p.verb))
		return err
	}
	ctx, done := c.signals(p.verb.Serve)
	defer done()
	line := append([]string{app.Name}, p.line()...)
	return command(app, p, c).RunContext(ctx, line)
}

// command is the urfave/cli application for one parsed command line.
func command(app App, p *parsed, c *Call) *cli.App {
	cmd := &cli.Command{
		Name: "run", HideHelp: true, Flags: flagsOf(app, p.verb),
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

// flagsOf declares the flags of a verb, with their environment variables.
func flagsOf(app App, v *Verb) (flags []cli.Flag) {
	for _, f := range allFlags(v) {
		env := []string{envName(app.Name, f.Name)}
		var alias []string
		if f.Short != "" {
			alias = []string{f.Short}
		}
		switch f.Kind {
		case Bool:
			flags = append(flags, &cli.BoolFlag{Name: f.Name, Aliases: alias, EnvVars: env})
		case Int:
			flags = append(flags, &cli.IntFlag{Name: f.Name, Aliases: alias, EnvVars: env})
		case Duration:
			flags = append(flags, &cli.DurationFlag{Name: f.Name, Aliases: alias, EnvVars: env})
		case Strings:
			flags = append(flags, &cli.StringSliceFlag{Name: f.Name, Aliases: alias, EnvVars: env})
		default:
			flags = append(flags, &cli.StringFlag{Name: f.Name, Aliases: alias, EnvVars: env})
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
	if v != nil {
		if v.Serve {
			all = append(all, Flag{Name: "ready-fd", Kind: Int, Help: "write a newline to this descriptor once the socket answers, then close it"})
		}
		all = append(all, v.Flags...)
	}
	return all
}

// signals gives a context that ends on SIGINT and SIGTERM and remembers which.
func (c *Call) signals(serve bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 1)
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	signal.Notify(ch, list...)
	// A reader that went away shows as an error of Write, not as a death.
	signal.Ignore(syscall.SIGPIPE)
	stop := make(chan struct{})
	go func() {
		select {
		case s := <-ch:
			if !serve {
				c.sig.Store(int32(s.(syscall.Signal)))
			}
			cancel(nil)
		case <-stop:
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(stop)
		cancel(nil)
	}
}

// run is the action of every verb.
func (c *Call) run(x *cli.Context, v *Verb) error {
	c.x, c.Args = x, x.Args().Slice()
	c.JSON = x.Bool("json")
	level := slog.LevelError + 4
	switch {
	case c.Bool("verbose"):
		level = slog.LevelDebug
	case v.Serve && !c.Bool("quiet"):
		level = slog.LevelInfo
	}
	c.Log = slog.New(slog.NewTextHandler(c.Err, &slog.HandlerOptions{Level: level, ReplaceAttr: shortTime}))
	if err := c.checkValues(v); err != nil {
		return err
	}
	ctx := x.Context
	if d := c.Duration("timeout"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	err := v.Run(ctx, c)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && c.sig.Load() == 0 {
		return top.Errorf(top.Timeout, "not done after %s (--timeout)", c.Duration("timeout"))
	}
	if v.Serve && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func shortTime(groups []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(groups) == 0 {
		a.Value = slog.StringValue(a.Value.Time().UTC().Format("15:04:05.000"))
	}
	return a
}

// checkValues parses what urfave/cli leaves as text.
func (c *Call) checkValues(v *Verb) error {
	for _, f := range allFlags(v) {
		if f.Kind != Amount || !c.x.IsSet(f.Name) {
			continue
		}
		if _, err := top.ParseAmount(c.x.String(f.Name)); err != nil {
			return top.Errorf(top.Usage, "--%s: %v", f.Name, trimKind(err))
		}
	}
	return nil
}

// exit reports err and gives its exit code (D3).
func (c *Call) exit(err error) int {
	if sig := c.sig.Load(); sig != 0 && err != nil {
		return 128 + int(sig)
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		return 141
	}
	kind := top.KindOf(err)
	c.report(err, kind)
	return kind.Exit()
}

// atomicSignal is the signal that ended a one-shot verb; 0 is none.
type atomicSignal = atomic.Int32
