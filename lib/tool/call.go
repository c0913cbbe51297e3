package tool

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"top/lib/pipe"
	"top/lib/top"
)

// A Call is one run of a verb: its flags, operands and streams. Only reading
// flags and Log are safe for concurrent use.
type Call struct {
	Args []string
	In   io.Reader // stdin; reading ends with the verb's context
	Out  io.Writer // stdout; gone for good once a Write fails
	Err  io.Writer
	JSON bool
	Log  *slog.Logger // silent for one-shot verbs without -v

	app    App
	verb   *Verb
	path   []string
	x      *cli.Context
	stdout *output
	bar    *Progress // the last one begun
	ready  readiness
	until  func(io.Reader) *input // a reader that ends with the verb's context
	sig    atomic.Int32           // the signal that ended a one-shot verb; 0 is none
}

// readiness is who is told that a daemon answers.
type readiness struct {
	to   *os.File    // --ready-fd, until Ready
	said atomic.Bool // Ready was called
}

// flagged says whether the verb has a flag.
func (c *Call) flagged(name string) bool {
	return slices.ContainsFunc(allFlags(c.verb), func(f Flag) bool { return f.Name == name })
}

// flag is a flag's declaration and what was given for it, or else its default.
// Asking for a flag that was not declared is a bug.
func (c *Call) flag(name string) (f Flag, given string) {
	for _, f := range allFlags(c.verb) {
		if f.Name == name && c.x.IsSet(name) {
			return f, c.x.String(name)
		} else if f.Name == name {
			return f, f.Default
		}
	}
	panic("tool: no flag " + name + " in " + strings.Join(c.path, " "))
}

// Set says whether the flag was given, on the command line or by environment.
func (c *Call) Set(name string) bool { return c.x.IsSet(name) }

// String is a flag's value, or its default.
func (c *Call) String(name string) string {
	_, s := c.flag(name)
	return s
}

// Bool is a flag's value; the default is false.
func (c *Call) Bool(name string) bool {
	c.flag(name)
	return c.x.Bool(name)
}

// Int is a flag's value, or its default, or 0.
func (c *Call) Int(name string) int { return value[int](c, name) }

// Duration is a flag's value, or its default, or 0; it is never below 0.
func (c *Call) Duration(name string) time.Duration { return value[time.Duration](c, name) }

// Amount is a flag's value in nano, or its default, or 0.
func (c *Call) Amount(name string) top.Amount { return value[top.Amount](c, name) }

// value reads a flag whose text parse has checked; asking for another type than
// the flag's is a bug.
func value[T any](c *Call, name string) (v T) {
	f, s := c.flag(name)
	if s == "" {
		return v
	}
	got, err := f.value(s)
	if err != nil {
		panic("tool: default of --" + name + ": " + err.Error())
	}
	return got.(T)
}

// Strings is every value of a flag that may repeat.
func (c *Call) Strings(name string) []string {
	c.flag(name)
	return c.x.StringSlice(name)
}

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
// What a stranger may have put into the text cannot steer a terminal.
func (c *Call) Emit(record any, format string, args ...any) error {
	if c.JSON {
		return pipe.NewWriter(c.Out).Write(record)
	}
	_, err := io.WriteString(c.Out, printable(fmt.Sprintf(format, args...))+"\n")
	return err
}

// Info remarks something on stderr, unless --quiet.
func (c *Call) Info(format string, args ...any) {
	if !c.Bool("quiet") {
		c.bar.end()
		io.WriteString(c.Err, c.app.Name+": "+printable(fmt.Sprintf(format, args...))+"\n")
	}
}

// printable replaces control characters but for tab and newline.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// Ready says that the daemon answers: it writes a newline to --ready-fd and
// closes it.
func (c *Call) Ready() error {
	c.ready.said.Store(true)
	f := c.ready.to
	if f == nil {
		return nil
	}
	c.ready.to = nil
	_, err := f.Write([]byte("\n"))
	if err := errors.Join(err, f.Close()); err != nil {
		return top.Errorf(top.Usage, "--ready-fd: %v", err)
	}
	return nil
}

// inherited is the descriptor that a flag names, if whoever started us passed it.
// One that is closed, or that the runtime has opened for itself, is refused:
// closing the latter would break the program. Programs that we start do not get
// it.
func (c *Call) inherited(name string) (*os.File, error) {
	fd := c.Int(name)
	bits, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || bits&unix.FD_CLOEXEC != 0 || fd == 0 {
		return nil, top.Errorf(top.Usage, "--%s %d: no such descriptor was passed (as in: %s %d<FILE)", name, fd, c.app.Name, fd)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

// Input opens the operand that names a file: "-" and "" are stdin. Reading ends
// with the verb's context, as it may be a pipe that nobody writes to.
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
	return struct {
		io.Reader
		io.Closer
	}{c.until(f), f}, nil
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
func (c *Call) report(err error, exit int) {
	c.bar.end()
	kind := top.KindOf(err)
	message := printable(text(err, kind))
	if c.JSON {
		line, _ := pipe.Line(failure{failureBody{kind, message, exit, top.RetryAfter(err).Milliseconds()}})
		c.Err.Write(line)
		return
	}
	if message != string(kind) {
		message = string(kind) + ": " + message
	}
	io.WriteString(c.Err, c.app.Name+": "+message+"\n")
}
