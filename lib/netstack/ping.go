package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"top/lib/top"
)

// Ping asks a host for an echo of payload by an unprivileged ICMP socket, and returns
// when it came. Where the host's kernel grants none (net.ipv4.ping_group_range), the
// error wraps top.ErrDenied.
func Ping(ctx context.Context, to netip.Addr, payload []byte) error {
	family, proto, kind, reply := unix.AF_INET, unix.IPPROTO_ICMP, byte(echoRequest), byte(echoReply)
	if to.Is6() {
		family, proto, kind, reply = unix.AF_INET6, unix.IPPROTO_ICMPV6, echoRequest6, echoReply6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return fmt.Errorf("ping %s: %w: %w", to, err, top.ErrDenied)
	}
	file := os.NewFile(uintptr(fd), "ping")
	c, err := net.FilePacketConn(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("ping %s: %w: %w", to, err, top.ErrFailed)
	}
	defer c.Close()
	defer atEnd(ctx, func() { c.Close() })()
	// The kernel puts in an identifier of its own, and the checksum.
	const number = 1
	ask := append([]byte{kind, 0, 0, 0, 0, 0, 0, number}, payload...)
	if _, err := c.WriteTo(ask, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 0))); err != nil {
		return fmt.Errorf("ping %s: %w: %w", to, err, top.ErrOffline)
	}
	b := make([]byte, len(ask)+1)
	for {
		n, _, err := c.ReadFrom(b)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("ping %s: %w: %w", to, ctx.Err(), top.ErrTimeout)
		case err != nil:
			return fmt.Errorf("ping %s: %w: %w", to, err, top.ErrOffline)
		case n == len(ask) && b[0] == reply && binary.BigEndian.Uint16(b[6:]) == number && string(b[8:n]) == string(payload):
			return nil
		}
	}
}

// reason says why a host was not reached.
func reason(err error) why {
	if errors.Is(err, top.ErrDenied) || errors.Is(err, syscall.EACCES) {
		return prohibited
	}
	return hostUnreachable
}
