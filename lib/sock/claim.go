package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"top/lib/home"
	"top/lib/top"
)

// New claims the socket: it takes the lock beside it, removes what an earlier
// daemon left, and listens. A path that another daemon serves is top.ErrBusy.
func New(cfg Config) (*Server, error) {
	if err := fits(cfg.Sock); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Sock), 0o700); err != nil {
		return nil, fmt.Errorf("claim socket: %w", err)
	}
	release, err := home.Lock(cfg.Sock + ".lock")
	if errors.Is(err, top.ErrBusy) {
		return nil, top.Errorf(top.Busy, "%s serves %s already: %v", cfg.Name, cfg.Sock, err)
	}
	if err != nil {
		return nil, fmt.Errorf("claim socket: %w", err)
	}
	ln, err := listen(cfg.Sock)
	if err != nil {
		release()
		return nil, err
	}
	return &Server{cfg: cfg, ln: ln, release: release, start: time.Now()}, nil
}

// maxPath is the longest path of a Unix socket on Linux (unix(7), minus the
// final zero).
const maxPath = 107

// fits refuses a path that the system would refuse with "invalid argument".
func fits(path string) error {
	if len(path) > maxPath {
		return top.Errorf(top.Invalid, "socket path %s has %d bytes and the system allows %d (choose a shorter --sock or --home)", path, len(path), maxPath)
	}
	return nil
}

// listen removes a leftover socket, which nobody serves since we hold the lock,
// and binds with mode 0600. Anything but a socket is left alone.
func listen(path string) (net.Listener, error) {
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, top.Errorf(top.Invalid, "%s is there and is no socket (choose another --sock, or move it away)", path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("claim socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("claim socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("claim socket: %w", err)
	}
	return ln, nil
}

type peerKey struct{}

// withPeer notes the uid at the other end of a connection (SO_PEERCRED).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || cred == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred.Uid)
}

func peerUID(ctx context.Context) (uint32, bool) {
	uid, ok := ctx.Value(peerKey{}).(uint32)
	return uid, ok
}
