package wg

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"top/lib/top"
)

// wgDir is where wg(8) looks for the sockets of devices that are not the kernel's
// (https://www.wireguard.com/xplatform/).
const wgDir = "/var/run/wireguard"

// Bounds on who talks to the socket of wg: a request that is not finished holds the
// device's configuration.
const (
	uapiLife = 10 * time.Second
	maxUAPI  = 16
)

// ServeUAPI lets wg(8) look at the device under a name, and its owner change it, on a
// socket in /var/run/wireguard, until Close.
func (d *Device) ServeUAPI(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.uapi != nil {
		return top.Errorf(top.Busy, "the device is closed, or has a socket of wg")
	}
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return top.Errorf(top.Invalid, "%q is no name of an interface", name)
	}
	path := filepath.Join(wgDir, name+".sock")
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return top.Errorf(top.Busy, "%s answers: another device has this name", path)
	}
	l, err := listenUAPI(path)
	if err != nil {
		return top.Errorf(top.Denied, "listen on %s: %v (needs root)", path, err)
	}
	d.uapi, d.path, d.conns = l, path, map[net.Conn]bool{}
	d.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if d.keep(c) {
				d.done.Go(func() { d.answer(c) })
			}
		}
	})
	return nil
}

// listenUAPI listens on a socket that its owner alone may use from the beginning: it
// is moved to its place when it is so.
func listenUAPI(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(wgDir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(wgDir, ".new")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	first := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(first, 0o600); err == nil {
		err = os.Rename(first, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// keep notes a connection, so that Close ends it, or closes it.
func (d *Device) keep(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.conns) >= maxUAPI || c.SetDeadline(time.Now().Add(uapiLife)) != nil {
		c.Close()
		return false
	}
	d.conns[c] = true
	return true
}

func (d *Device) answer(c net.Conn) {
	d.dev.IpcHandle(c) // it closes c
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}
