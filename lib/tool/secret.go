package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"top/lib/top"
)

// SecretFlags are the flags by which a verb takes a secret: for "passphrase"
// --passphrase-fd and --passphrase-file.
func SecretFlags(name string) []Flag {
	return []Flag{
		{Name: name + "-fd", Kind: Int, Help: "read the " + name + " from this descriptor"},
		{Name: name + "-file", Help: "read the " + name + " from this file, which only you may read"},
	}
}

// PassphraseFlags are the flags by which a verb takes a passphrase.
func PassphraseFlags() []Flag { return SecretFlags("passphrase") }

// maxSecret bounds a passphrase.
const maxSecret = 4096

// Passphrase is Secret of PassphraseFlags.
func (c *Call) Passphrase(prompt string, readFile func(string) ([]byte, error)) ([]byte, error) {
	return c.Secret("passphrase", prompt, readFile)
}

// Secret reads a secret from the descriptor or the file (by readFile, which
// refuses what others can read) that its SecretFlags name, or from the terminal
// with echo off, and cuts its last newline. It never touches stdin (D4).
func (c *Call) Secret(name, prompt string, readFile func(string) ([]byte, error)) ([]byte, error) {
	switch fd := name + "-fd"; {
	case c.Set(fd):
		f, err := c.inherited(fd)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret))
		if err != nil {
			return nil, top.Errorf(top.Usage, "--%s %d: %v", fd, c.Int(fd), err)
		}
		return firstLine(b), nil
	case c.Set(name + "-file"):
		b, err := readFile(c.String(name + "-file"))
		return firstLine(b), err
	}
	return c.askTerminal(prompt)
}

func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return bytes.TrimRight(line, "\r")
}

// askTerminal reads a line from the controlling terminal with echo off, until
// the verb's context ends.
func (c *Call) askTerminal(prompt string) (line []byte, err error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, top.Errorf(top.Usage, "a passphrase is needed and there is no terminal (give --passphrase-fd N or --passphrase-file FILE)")
	}
	defer tty.Close()
	var was *unix.Termios
	if err := control(tty, func(fd int) (err error) {
		if was, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
			return err
		}
		silent := *was
		silent.Lflag &^= unix.ECHO
		return unix.IoctlSetTermios(fd, unix.TCSETS, &silent)
	}); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	defer func() {
		err = errors.Join(err, control(tty, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, was) }))
		fmt.Fprintln(tty)
	}()
	fmt.Fprintf(tty, "%s: ", prompt)
	in := c.until(tty)
	for one := make([]byte, 1); len(line) < maxSecret; {
		n, err := in.Read(one)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		if n == 0 || err != nil || one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	return line, nil
}

// control calls f with the file's descriptor and leaves reads of the file
// interruptible, which File.Fd does not.
func control(file *os.File, f func(fd int) error) (err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	if bad := conn.Control(func(fd uintptr) { err = f(int(fd)) }); bad != nil {
		return bad
	}
	return err
}
