package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"top/lib/pipe"
	"top/lib/top"
)

// A Call is one run of a verb: its flags, operands and streams.
type Call struct {
	Args []string
	In   io.Reader
	Out  io.Writer
	Err  io.Writer
	JSON bool
	Log  *slog.Logger // silent for one-shot verbs without -v

	app  App
	verb *Verb
	path []string
	x    *cli.Context
	sig  atomicSignal
}

// flagDef is the declaration of a flag of this verb; asking for one that was not
// declared is a bug.
func (c *Call) flagDef(name string) Flag {
	for _, f := range allFlags(c.verb) {
		if f.Name == name {
			return f
		}
	}
	panic("tool: no flag " + name + " in " + strings.Join(c.path, " "))
}

// Set says whether the flag was given, on the command line or by environment.
func (c *Call) Set(name string) bool { return c.x.IsSet(name) }

// String is a flag's value, or its default.
func (c *Call) String(name string) string {
	if d := c.flagDef(name); !c.x.IsSet(name) {
		return d.Default
	}
	return c.x.String(name)
}

// Bool is a flag's value; the default is false.
func (c *Call) Bool(name string) bool { c.flagDef(name); return c.x.Bool(name) }

// Int is a flag's value, or its default.
func (c *Call) Int(name string) int {
	d := c.flagDef(name)
	if !c.x.IsSet(name) {
		var n int
		fmt.Sscan(d.Default, &n)
		return n
	}
	return c.x.Int(name)
}

// Duration is a flag's value, or its default.
func (c *Call) Duration(name string) time.Duration {
	d := c.flagDef(name)
	if !c.x.IsSet(name) {
		v, _ := time.ParseDuration(d.Default)
		return v
	}
	return c.x.Duration(name)
}

// Amount is a flag's value in nano, or its default.
func (c *Call) Amount(name string) top.Amount {
	s := c.String(name)
	if s == "" {
		return 0
	}
	a, _ := top.ParseAmount(s) // checkValues refused what does not parse
	return a
}

// Strings is every value of a flag that may repeat.
func (c *Call) Strings(name string) []string { c.flagDef(name); return c.x.StringSlice(name) }

// Arg is operand i, "" when absent.
func (c *Call) Arg(i int) string {
	if i < len(c.Args) {
		return c.Args[i]
	}
	return ""
}

// Getenv reads the environment.
func (c *Call) Getenv(name string) string { return os.Getenv(name) }

// Emit prints one result: the record under --json, else the text as a line.
func (c *Call) Emit(record any, format string, args ...any) error {
	if c.JSON {
		return pipe.NewWriter(c.Out).Write(record)
	}
	_, err := fmt.Fprintf(c.Out, format+"\n", args...)
	return err
}

// Info remarks something on stderr, unless --quiet.
func (c *Call) Info(format string, args ...any) {
	if !c.Bool("quiet") {
		fmt.Fprintf(c.Err, "%s: %s\n", c.app.Name, fmt.Sprintf(format, args...))
	}
}

// Ready says that the daemon answers: it writes a newline to --ready-fd and
// closes it.
func (c *Call) Ready() error {
	if !c.x.IsSet("ready-fd") {
		return nil
	}
	f := os.NewFile(uintptr(c.Int("ready-fd")), "ready-fd")
	if f == nil {
		return top.Errorf(top.Usage, "--ready-fd %d: no such descriptor", c.Int("ready-fd"))
	}
	_, err := f.Write([]byte("\n"))
	if err := errors.Join(err, f.Close()); err != nil {
		return top.Errorf(top.Usage, "--ready-fd %d: %v", c.Int("ready-fd"), err)
	}
	return nil
}

// Input opens the operand that names a file: "-" and "" are stdin.
func (c *Call) Input(name string) (io.ReadCloser, error) {
	if name == "" || name == "-" {
		return io.NopCloser(c.In), nil
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, top.Errorf(top.NotFound, "no file %s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open input: %w", err)
	}
	return f, nil
}

// IsTerminal says whether a stream is one. TERM=dumb and NO_COLOR count as no
// terminal for everything that moves or is coloured.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// RefuseTerminal refuses raw bytes on a terminal, unless they were asked for
// with -o -.
func (c *Call) RefuseTerminal() error {
	if IsTerminal(c.Out) && c.String("output") != "-" {
		return top.Errorf(top.Usage, "raw bytes on a terminal (name a file with -o, or -o - to print them all the same)")
	}
	return nil
}

// failure is the last line of stderr under --json.
type failure struct {
	Error failureBody `json:"error"`
}

type failureBody struct {
	Kind    top.Kind `json:"kind"`
	Message string   `json:"message"`
	Exit    int      `json:"exit"`
	RetryMs int64    `json:"retry_ms,omitempty"`
}

// report says an error on stderr: its kind, then its text.
func (c *Call) report(err error, kind top.Kind) {
	text := trimKind(err).Error()
	if c.JSON {
		b, _ := json.Marshal(failure{failureBody{kind, text, kind.Exit(), top.RetryAfter(err).Milliseconds()}})
		fmt.Fprintf(c.Err, "%s\n", b)
		return
	}
	fmt.Fprintf(c.Err, "%s: %s: %s\n", c.app.Name, kind, text)
}

// Progress shows how far long work is: a bar on a terminal, else a line every
// ten seconds. Nothing under --quiet.
type Progress struct {
	w     io.Writer
	name  string
	bar   bool
	last  time.Time
	total int
}

// Progress begins to show work of total steps called what.
func (c *Call) Progress(what string, total int) *Progress {
	p := &Progress{name: c.app.Name + ": " + what, total: max(total, 1), last: time.Now()}
	if c.Bool("quiet") {
		return p
	}
	p.w = c.Err
	p.bar = IsTerminal(c.Err) && !c.JSON && c.Getenv("NO_COLOR") == "" && c.Getenv("TERM") != "dumb"
	return p
}

// At shows that done steps are behind.
func (p *Progress) At(done int) {
	every := 10 * time.Second
	if p.bar {
		every = 100 * time.Millisecond
	}
	if p.w == nil || done < p.total && time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	percent := done * 100 / p.total
	if !p.bar {
		fmt.Fprintf(p.w, "%s: %d of %d (%d %%)\n", p.name, done, p.total, percent)
		return
	}
	fmt.Fprintf(p.w, "\r%s [%-40s] %3d %%", p.name, strings.Repeat("=", percent*2/5), percent)
	if done >= p.total {
		fmt.Fprintln(p.w)
	}
}
