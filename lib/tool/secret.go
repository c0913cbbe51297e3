package tool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"top/lib/top"
)

// PassphraseFlags are the flags by which a verb takes a passphrase.
func PassphraseFlags() []Flag {
	return []Flag{
		{Name: "passphrase-fd", Kind: Int, Help: "read the passphrase from this descriptor"},
		{Name: "passphrase-file", Help: "read the passphrase from this file, which only you may read"},
	}
}

// maxSecret bounds a passphrase.
const maxSecret = 4096

// Passphrase reads a secret from --passphrase-fd, --passphrase-file (read by
// readFile, which refuses what others can read) or the terminal with echo off,
// and cuts its last newline. It never touches stdin (D4).
func (c *Call) Passphrase(prompt string, readFile func(string) ([]byte, error)) ([]byte, error) {
	switch {
	case c.Set("passphrase-fd"):
		f := os.NewFile(uintptr(c.Int("passphrase-fd")), "passphrase-fd")
		if f == nil {
			return nil, top.Errorf(top.Usage, "--passphrase-fd %d: no such descriptor", c.Int("passphrase-fd"))
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxSecret))
		if err != nil {
			return nil, top.Errorf(top.Usage, "--passphrase-fd %d: %v", c.Int("passphrase-fd"), err)
		}
		return firstLine(b), nil
	case c.Set("passphrase-file"):
		b, err := readFile(c.String("passphrase-file"))
		return firstLine(b), err
	}
	return askTerminal(prompt)
}

func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return bytes.TrimRight(line, "\r")
}

// askTerminal reads a line from the controlling terminal with echo off.
func askTerminal(prompt string) (line []byte, err error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, top.Errorf(top.Usage, "a passphrase is needed and there is no terminal (give --passphrase-fd N or --passphrase-file FILE)")
	}
	defer tty.Close()
	fd := int(tty.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	silent := *was
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	defer func() {
		err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, was))
		fmt.Fprintln(tty)
	}()
	fmt.Fprintf(tty, "%s: ", prompt)
	for one := make([]byte, 1); len(line) < maxSecret; {
		n, err := tty.Read(one)
		if n == 0 || err != nil || one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	return line, nil
}
