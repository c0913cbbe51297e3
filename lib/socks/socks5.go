package socks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"top/lib/top"
)

// What stands in the messages of RFC 1928 and RFC 1929.
const (
	version = 5

	noAuth, password, noMethod = 0, 2, 0xff
	passwordVersion            = 1

	connect, associate = 1, 3

	typeV4, typeName, typeV6 = 1, 3, 4
)

// Codes of a reply.
const (
	succeeded          = 0
	failed             = 1
	denied             = 2
	networkUnreachable = 3
	hostUnreachable    = 4
	refused            = 5
	expired            = 6
	noCommand          = 7
	noType             = 8
)

// An address is a name or an IP address, and a port.
type address struct {
	name string // "" when ip says it
	ip   netip.Addr
	port uint16
}

func (a address) String() string {
	host := a.name
	if host == "" {
		host = a.ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.port)))
}

// append encodes an address.
func (a address) append(b []byte) []byte {
	switch {
	case a.name != "":
		b = append(append(b, typeName, byte(len(a.name))), a.name...)
	case a.ip.Is4():
		b = append(append(b, typeV4), a.ip.AsSlice()...)
	default:
		b = append(append(b, typeV6), a.ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, a.port)
}

var errType = errors.New("type of address")

// readAddress decodes one; errType is a type that is not known.
func readAddress(r io.Reader) (a address, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return a, err
	}
	size := map[byte]int{typeV4: 4, typeV6: 16}[head[0]]
	if head[0] == typeName {
		if _, err := io.ReadFull(r, head[1:]); err != nil {
			return a, err
		}
		size = int(head[1])
	} else if size == 0 {
		return a, fmt.Errorf("%w %d: %w", errType, head[0], top.ErrInvalid)
	}
	b := make([]byte, size+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return a, err
	}
	host := b[:size]
	a.port = binary.BigEndian.Uint16(b[size:])
	if head[0] != typeName {
		a.ip, _ = netip.AddrFromSlice(host)
		a.ip = a.ip.Unmap()
		return a, nil
	}
	// Some clients write an address as a name.
	if ip, err := netip.ParseAddr(string(host)); err == nil && ip.Zone() == "" {
		a.ip = ip.Unmap()
		return a, nil
	}
	if size == 0 || slices.ContainsFunc(host, noName) {
		return a, fmt.Errorf("name %q: %w", host, top.ErrInvalid)
	}
	a.name = string(host)
	return a, nil
}

// noName says whether a byte has no place in the name of a host.
func noName(c byte) bool {
	return (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
}

// socks5 is a client that speaks SOCKS5, from its first byte to its last.
func (s *Server) socks5(ctx context.Context, c *client) {
	if err := s.greet(c); err != nil {
		s.cfg.Log.Debug("proxy greeting", "err", err)
		return
	}
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil || head[0] != version {
		return
	}
	to, err := readAddress(c)
	switch {
	case errors.Is(err, errType):
		reply(c, noType, nil)
	case errors.Is(err, top.ErrInvalid):
		reply(c, failed, nil)
	case err != nil:
	case head[1] == connect:
		s.connect(ctx, c, to)
	case head[1] == associate:
		s.associate(ctx, c)
	default:
		reply(c, noCommand, nil)
	}
}

// greet agrees on a method, and hears the password if there is one (S2).
func (s *Server) greet(c *client) error {
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(c, methods); err != nil {
		return err
	}
	want := byte(noAuth)
	if s.cfg.Auth != nil {
		want = password
	}
	if !slices.Contains(methods, want) {
		c.Write([]byte{version, noMethod})
		return fmt.Errorf("methods %x: %w", methods, top.ErrDenied)
	}
	if _, err := c.Write([]byte{version, want}); err != nil || want == noAuth {
		return err
	}
	if _, err := io.ReadFull(c, head[:1]); err != nil || head[0] != passwordVersion {
		return fmt.Errorf("version %d of a password: %w", head[0], top.ErrInvalid)
	}
	user, err := readString(c)
	if err != nil {
		return err
	}
	pass, err := readString(c)
	if err != nil {
		return err
	}
	if !s.cfg.Auth(user, pass) {
		c.Write([]byte{passwordVersion, 1})
		return fmt.Errorf("password: %w", top.ErrDenied)
	}
	_, err = c.Write([]byte{passwordVersion, 0})
	return err
}

// readString reads one of RFC 1929: a length, then that many bytes.
func readString(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

func (s *Server) connect(ctx context.Context, c *client, to address) {
	c.SetDeadline(time.Time{})
	out, err := s.cfg.Dial(ctx, "tcp", to.String())
	if err != nil {
		reply(c, code(err), nil)
		return
	}
	if reply(c, succeeded, out.LocalAddr()) != nil {
		out.Close()
		return
	}
	relay(ctx, c, out)
}

// reply answers a request; bound is the address on the far side, which may be unknown.
func reply(c io.Writer, code byte, bound net.Addr) error {
	a := address{ip: netip.IPv4Unspecified()}
	if bound != nil {
		if ap, err := netip.ParseAddrPort(bound.String()); err == nil {
			a = address{ip: ap.Addr().Unmap().WithZone(""), port: ap.Port()}
		}
	}
	_, err := c.Write(a.append([]byte{version, code, 0}))
	return err
}

// code is the reply that says why a dial failed (S3).
func code(err error) byte {
	switch {
	case errors.Is(err, top.ErrDenied):
		return denied
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ENETUNREACH):
		return networkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, top.ErrNotFound):
		return hostUnreachable
	case timedOut(err):
		return expired
	case errors.Is(err, top.ErrOffline):
		return networkUnreachable
	}
	return failed
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, top.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
