// Package home is where files live: TOP_HOME, socket paths, key files, locks,
// whole-file writes and append-only logs.
//
//	H1  a file written whole is there whole or not at all, over any crash
//	H2  a log gives back every record that was synced, and a torn last record
//	    is cut off, never read
//	H3  a secret that others may read is refused
package home

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"top/lib/top"
)

// maxSockPath is the longest path of a Unix socket on Linux (unix(7), minus the
// final zero).
const maxSockPath = 107

// maxSecret bounds, in bytes, a file that is read as a secret.
const maxSecret = 64 << 10

// Dir is a home directory: everything of one user or one node.
type Dir string

// Default is $TOP_HOME, or .top in the user's home directory.
func Default(getenv func(string) string) (Dir, error) {
	if d := getenv("TOP_HOME"); d != "" {
		return Dir(d), nil
	}
	if h := getenv("HOME"); h != "" {
		return Dir(filepath.Join(h, ".top")), nil
	}
	return "", top.Errorf(top.Usage, "neither TOP_HOME nor HOME is set (say --home DIR)")
}

// Of is the home that a --home flag names, or Default when it is empty.
func Of(flag string, getenv func(string) string) (Dir, error) {
	if flag != "" {
		return Dir(flag), nil
	}
	return Default(getenv)
}

// Path joins parts below the home.
func (d Dir) Path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// Sock is the path of a daemon's socket, run/NAME.sock. A path longer than a
// socket address holds is refused.
func (d Dir) Sock(name string) (string, error) {
	abs, err := filepath.Abs(d.Path("run", name+".sock"))
	if err != nil {
		return "", fmt.Errorf("socket path: %w", err)
	}
	if len(abs) > maxSockPath {
		return "", top.Errorf(top.Invalid, "socket path %s has %d bytes and the system allows %d (choose a shorter --home)", abs, len(abs), maxSockPath)
	}
	return abs, nil
}

// SockOr is path where one was chosen, else Sock.
func (d Dir) SockOr(path, name string) (string, error) {
	if path != "" {
		return path, nil
	}
	return d.Sock(name)
}

// Make creates the home with run, keys and receipts below it, for the owner
// only. Those three are closed to others again if somebody opened them.
func (d Dir) Make() error {
	if err := os.MkdirAll(d.Path(), 0o700); err != nil {
		return fmt.Errorf("make home: %w", err)
	}
	for _, p := range []string{d.Path("run"), d.Path("keys"), d.Path("receipts")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return fmt.Errorf("make home: %w", err)
		}
		st, err := os.Stat(p)
		if err == nil && st.Mode().Perm()&0o077 != 0 {
			err = os.Chmod(p, 0o700)
		}
		if err != nil {
			return fmt.Errorf("make home: %w", err)
		}
	}
	return nil
}

// WriteFile puts data at path whole or not at all (H1): it writes beside,
// syncs, renames and syncs the folder.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteParts(path, perm, data)
}

// WriteParts is WriteFile for data in parts, one after the other.
func WriteParts(path string, perm fs.FileMode, parts ...[]byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	for _, data := range parts {
		if _, err = f.Write(data); err != nil {
			return err
		}
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ReadSecret reads a file that only its owner may read; any other is
// top.ErrDenied, with the command that mends it (H3).
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, top.Errorf(top.NotFound, "no file %s", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, top.Errorf(top.Denied, "%s may not be read by this user (its owner can: ls -l %[1]s)", path)
	case err != nil:
		return nil, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, top.Errorf(top.Denied, "%s can be read by others, mode %04o (mend it: chmod 600 %s)", path, st.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	if len(b) > maxSecret {
		return nil, top.Errorf(top.Invalid, "%s is longer than %d KiB, too long for a secret", path, maxSecret>>10)
	}
	return b, nil
}

// Free is the bytes that an ordinary user may still write on the disk of path.
func Free(path string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Lock takes the lock file at path for this process, until release or the
// process's end, however it ends. Someone else's lock is top.ErrBusy with their
// process id.
func Lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who := make([]byte, 20)
		n, _ := f.ReadAt(who, 0)
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(who[:n])))
		if err != nil { // taken this very moment
			return nil, top.Errorf(top.Busy, "%s is held by another process (fuser %[1]s names it)", path)
		}
		return nil, top.Errorf(top.Busy, "%s is held by process %d (stop it first: kill %[2]d)", path, pid)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return func() {
		f.Truncate(0) // the next holder's number is not there at once: show none, not ours
		f.Close()
	}, nil
}
