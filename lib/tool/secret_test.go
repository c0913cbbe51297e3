package tool

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestD4_ASecretComesFromNoStreamFlagOrVariable(t *testing.T) {
	// Neither from stdin, though a line is there, nor from a flag or a variable.
	t.Setenv("TOP_DEMO_PASSPHRASE", "open sesame")
	cmd := exec.Command("top-demo", "pass")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin = strings.NewReader("open sesame\n")
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("from stdin: %v: %s", err, out)
	}
	if code, stdout, _ := tryApp(demo(), "pass", "--passphrase", "open sesame"); code != 2 || stdout != "" {
		t.Errorf("from a flag: exit %d, stdout %q", code, stdout)
	}
	// From the terminal it comes, and is not shown there.
	p := onTerminal(t, "top-demo", "pass")
	fmt.Fprint(p.master, "open sesame\n")
	if code, shown := p.end(); code != 0 || strings.Contains(shown, "open") || !strings.Contains(p.stdout.String(), `"OPEN SESAME"`) {
		t.Errorf("from the terminal: exit %d, shown %q, stdout %q", code, shown, p.stdout.String())
	}
	// Who breaks off gets his terminal back as it was.
	p = onTerminal(t, "top-demo", "pass")
	fmt.Fprint(p.master, "\x03")
	if code, _ := p.end(); code != 130 || !p.echo(t) {
		t.Errorf("interrupted: exit %d, echo %v", code, p.echo(t))
	}
	p = onTerminal(t, "top-demo", "pass", "--timeout", "50ms")
	if code, _ := p.end(); code != 124 || !p.echo(t) {
		t.Errorf("timeout: exit %d, echo %v", code, p.echo(t))
	}
}

// A typist sits at the terminal of a program.
type typist struct {
	cmd           *exec.Cmd
	master, slave *os.File
	stdout        bytes.Buffer
}

// onTerminal starts a program on a terminal of its own and waits for its prompt.
func onTerminal(t *testing.T, name string, args ...string) *typist {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	var n int
	if err := control(master, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	p := &typist{cmd: exec.Command(name, args...), master: master, slave: slave}
	p.cmd.Stdout = &p.stdout
	p.cmd.ExtraFiles = []*os.File{slave}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for shown := ""; !strings.HasSuffix(shown, "passphrase: "); {
		b := make([]byte, 1)
		if _, err := io.ReadFull(master, b); err != nil {
			t.Fatalf("before the prompt: %v; shown %q", err, shown)
		}
		shown += string(b)
	}
	return p
}

// end waits for the program and gives its exit code and what it showed since the
// prompt.
func (p *typist) end() (code int, shown string) {
	p.cmd.Wait()
	fmt.Fprint(p.slave, "\x00") // so that there is an end to read to
	var b strings.Builder
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(p.master, one); err != nil || one[0] == 0 {
			return p.cmd.ProcessState.ExitCode(), b.String()
		}
		b.Write(one)
	}
}

func (p *typist) echo(t *testing.T) (on bool) {
	t.Helper()
	if err := control(p.slave, func(fd int) error {
		state, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			on = state.Lflag&unix.ECHO != 0
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return on
}
