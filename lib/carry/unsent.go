package carry

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsentSize bounds what the kernel holds of a TCP connection that it has not sent
// yet: a datagram that waits there is late, and no longer ours to drop.
const unsentSize = 128 << 10

// boundUnsent does that for a connection that has a descriptor.
func boundUnsent(c net.Conn) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentSize) })
	}
}
