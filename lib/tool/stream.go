package tool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"top/lib/top"
)

// output is stdout. It remembers that its reader went away, which is no other
// error of the verb's: a socket may break as well.
type output struct {
	w    io.Writer
	gone atomic.Bool
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		o.gone.Store(true)
	}
	return n, err
}

// input is stdin or a file, given up when a context ends: a verb that waits for a line
// hears SIGINT and --timeout all the same. It reads nothing before the first Read.
type input struct {
	r     io.Reader
	start func() io.Reader
}

func newInput(ctx context.Context, r io.Reader) *input {
	return &input{r, sync.OnceValue(func() io.Reader {
		pr, pw := io.Pipe()
		context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
		// Not every read can be broken off; the last may go on until the process
		// ends.
		go func() {
			_, err := io.Copy(pw, r)
			pw.CloseWithError(err)
		}()
		return pr
	})}
}

func (i *input) Read(b []byte) (int, error) { return i.start().Read(b) }

// prefixed puts the tool's name before each line of a log.
type prefixed struct {
	w    io.Writer
	name string
}

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, p.name+string(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// IsTerminal says whether a stream is one.
func IsTerminal(stream any) bool {
	switch s := stream.(type) {
	case *output:
		return IsTerminal(s.w)
	case *input:
		return IsTerminal(s.r)
	case *os.File:
		_, err := unix.IoctlGetTermios(int(s.Fd()), unix.TCGETS)
		return err == nil
	}
	return false
}

// Lively says whether stderr may show colour and movement: it is a terminal, and
// neither NO_COLOR, TERM=dumb nor --json forbids it.
func (c *Call) Lively() bool {
	return IsTerminal(c.Err) && !c.JSON && c.Getenv("NO_COLOR") == "" && c.Getenv("TERM") != "dumb"
}

// OutputFlag is -o of a verb that prints what one may want in a file.
func OutputFlag() Flag {
	return Flag{Name: "output", Short: "o", Help: "write to this file, which appears whole or not at all; - is stdout"}
}

// Output lets write deliver the verb's bytes: to the file that -o names, which
// appears only when all is written and on the disk, else to stdout. A Binary
// verb refuses a terminal unless it was asked for by "-o -".
func (c *Call) Output(write func(io.Writer) error) error {
	name := c.String("output")
	switch {
	case name != "" && name != "-":
		return writeFile(name, write)
	case c.verb.Binary && name == "" && IsTerminal(c.Out):
		return top.Errorf(top.Usage, "raw bytes on a terminal (name a file with -o, or -o - to print them all the same)")
	}
	b := bufio.NewWriterSize(c.Out, 64<<10)
	if err := write(b); err != nil {
		return err
	}
	return b.Flush()
}

// writeFile writes beside, syncs, renames, and syncs the folder. The file is for
// its owner only. A pipe or a device cannot be replaced and is written in place.
func writeFile(name string, write func(io.Writer) error) (err error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer dir.Close()
	var f *os.File
	rename := func() error { return nil }
	if info, bad := os.Stat(name); bad == nil && !info.Mode().IsRegular() {
		f, err = os.OpenFile(name, os.O_WRONLY, 0)
	} else {
		f, err = os.CreateTemp(dir.Name(), "."+filepath.Base(name)+".*")
		rename = func() error {
			if err := f.Sync(); err != nil {
				return err
			}
			return errors.Join(os.Rename(f.Name(), name), dir.Sync())
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 64<<10)
	err = write(b)
	for _, step := range []func() error{b.Flush, rename} {
		if err == nil {
			if err = step(); err != nil {
				err = fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	if err != nil && f.Name() != name {
		os.Remove(f.Name())
	}
	return err
}

// Progress shows how far long work is: a bar on a terminal, else a line every
// ten seconds. Nothing under --quiet.
type Progress struct {
	w     io.Writer
	name  string
	bar   bool
	open  bool // the bar's line has no end yet
	last  time.Time
	total int
}

// Progress begins to show work of total steps called what.
func (c *Call) Progress(what string, total int) *Progress {
	p := &Progress{name: c.app.Name + ": " + what, total: max(total, 1), last: time.Now()}
	if c.Bool("quiet") {
		return p
	}
	p.w, p.bar, c.bar = c.Err, c.Lively(), p
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
	fmt.Fprintf(p.w, "\r%s [%-40s] %3d %%", p.name, strings.Repeat("=", min(percent, 100)*2/5), percent)
	p.open = true
	if done >= p.total {
		p.end()
	}
}

// end ends the bar's line, so that something else can be said.
func (p *Progress) end() {
	if p != nil && p.open {
		io.WriteString(p.w, "\n")
		p.open = false
	}
}
