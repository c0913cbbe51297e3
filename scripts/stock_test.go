package scripts

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// BenchmarkRootless measures what a tunnel without root carries beside wireguard-go's
// own netstack doing the same: a socket at the client, TCP/IP in user space at both ends
// of a tunnel over UDP, and a socket at the exit, each end a process. Run it with
// -benchtime 1x.
func BenchmarkRootless(b *testing.B) {
	n := begin(b, os.Getenv("TOP_FAULT_LOAD"))
	n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit1")
	s, err := n.vpn("alice").Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	plain := stockPair(b, ln.Addr().String())
	dials := []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", plain) },
		func() (net.Conn, error) { return socks(s.Socks, ln.Addr().String()) },
	}
	for way, down := range map[string]bool{"upload": false, "download": true} {
		var rate [2][]float64
		for range rounds5 {
			for i, dial := range dials {
				near, err := dial()
				if err != nil {
					b.Fatal(err)
				}
				near.Write([]byte{1}) // the exit dials
				far, err := ln.Accept()
				if err == nil {
					_, err = io.ReadFull(far, make([]byte, 1))
				}
				if err != nil {
					b.Fatal(err)
				}
				src, dst := near, far
				if down {
					src, dst = far, near
				}
				rate[i] = append(rate[i], pump(src, dst, time.Now(), 500*time.Millisecond, 2*time.Second).mbit)
			}
		}
		b.Logf("without root, %s: wireguard-go's netstack %.0f, paid %.0f Mbit/s, %.0f %%; all %.0f, paid %.0f", way, median(rate[0]), median(rate[1]), 100*median(rate[1])/median(rate[0]), rate[0], rate[1])
	}
}

// socks connects through a proxy (RFC 1928).
func socks(proxy, to string) (net.Conn, error) {
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		return nil, err
	}
	a := netip.MustParseAddrPort(to)
	ip := a.Addr().As4()
	c.Write(append(append([]byte{5, 1, 0, 5, 1, 0, 1}, ip[:]...), byte(a.Port()>>8), byte(a.Port())))
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(c, answer); err != nil {
		return nil, err
	}
	if answer[3] != 0 {
		return nil, fmt.Errorf("the proxy answers %d", answer[3])
	}
	return c, nil
}

// stockPair runs both ends, and gives where the client's listens: what connects there is
// connected to target by the exit.
func stockPair(b *testing.B, target string) string {
	b.Helper()
	var private, public [2]string
	for i := range private {
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		private[i], public[i] = hex.EncodeToString(k.Bytes()), hex.EncodeToString(k.PublicKey().Bytes())
	}
	run := func(role string, args ...string) string {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "TOP_STOCK="+role)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			b.Fatal(role, err)
		}
		return strings.TrimSpace(line)
	}
	port := run("exit", private[1], public[0], target)
	return run("client", private[0], public[1], port)
}

// stock is an end of plain wireguard-go on its own netstack, until it is killed. It
// prints where it is met.
func stock(role string, args []string) error {
	mine, theirs := netip.AddrFrom4([4]byte{10, 7, 0, 1}), netip.AddrFrom4([4]byte{10, 7, 0, 2})
	if role == "client" {
		mine, theirs = theirs, mine
	}
	tun, stack, err := netstack.CreateNetTUN([]netip.Addr{mine}, nil, 1420)
	if err != nil {
		return err
	}
	dev := device.NewDevice(tun, conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	conf := fmt.Sprintf("private_key=%s\npublic_key=%s\nallowed_ip=%s/32\n", args[0], args[1], theirs)
	if role == "client" {
		conf += "endpoint=127.0.0.1:" + args[2] + "\n"
	}
	if err := errors.Join(dev.IpcSet(conf), dev.Up()); err != nil {
		return err
	}
	var ln net.Listener
	dial := func() (net.Conn, error) { return net.Dial("tcp", args[2]) }
	if role == "client" {
		dial = func() (net.Conn, error) {
			return stack.DialContextTCPAddrPort(context.Background(), netip.AddrPortFrom(theirs, 80))
		}
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			fmt.Println(ln.Addr())
		}
	} else if ln, err = stack.ListenTCPAddrPort(netip.AddrPortFrom(mine, 80)); err == nil {
		text, _ := dev.IpcGet()
		fmt.Println(between(text, "listen_port=", "\n"))
	}
	for err == nil {
		var c net.Conn
		if c, err = ln.Accept(); err == nil {
			go func() {
				defer c.Close()
				if far, err := dial(); err == nil {
					defer far.Close()
					go func() { io.Copy(far, c); far.Close() }()
					io.Copy(c, far)
				}
			}()
		}
	}
	return err
}
