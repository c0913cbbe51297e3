package scripts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"top/lib/api"
)

// openTUN makes a kernel interface that is handed over, as somebody with the right does.
func (s *space) openTUN(name string) (f *os.File) {
	s.t.Helper()
	s.in(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		f = os.NewFile(uintptr(fd), "tun")
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	s.t.Cleanup(func() { f.Close() })
	return f
}

// A tunnel on a descriptor that was handed over carries both families, through an exit
// with a kernel interface; addresses and routes are of who made it, and no firewall is set.
// What the exit refuses, by both families, is refused: its own network, other clients,
// mail.
func TestDenyNothingButWhatAnExitServes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a namespace")
		return
	}
	w := newCountry(t)
	page := w.body
	f := w.client.openTUN(w.tun)
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := w.command("alice", "top-vpn", "up", "--tun-fd", "4", "--via", w.via["exit1"], "--ready-fd", "3", "--quiet")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{pipe, f}, os.Stderr
	w.client.in(cmd.Start)
	pipe.Close()
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if k, _ := r.Read(make([]byte, 1)); k == 0 {
		t.Fatal("it did not get ready")
	}
	s, err := w.vpn("alice").Status(t.Context())
	if err != nil || len(s.Hops) != 1 || s.Interface != w.tun || s.KillSwitch {
		t.Fatalf("%+v: %v", s, err)
	}
	for i, a := range s.Hops[0].Inner {
		bits := []string{"/32", "/128"}[i]
		w.client.link(w.tun, nil, strings.SplitN(a, "/", 2)[0]+bits)
	}
	w.client.in(func() error {
		l, err := netlink.LinkByName(w.tun)
		if err != nil {
			return err
		}
		route := func(ip net.IP) error {
			n := 8 * len(ip)
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(n, n)}})
		}
		return errors.Join(route(net.ParseIP(host4).To4()), route(net.ParseIP(host6)), route(net.ParseIP("203.0.113.1").To4()), route(net.ParseIP("2a01:db8:1::1")))
	})
	for _, at := range []string{host4, "[" + host6 + "]"} {
		w.eventually("the page of "+at, func() bool {
			out, err := w.inClient("get", "http://"+at+"/", "--timeout", "20s")
			if err != nil {
				t.Log(err)
			}
			return err == nil && out == string(page)
		})
	}
	refused := func(what, to string) {
		t.Helper()
		w.client.in(func() error {
			c, err := net.DialTimeout("tcp", to, 3e9)
			if err == nil {
				c.Close()
				return fmt.Errorf("%s was reached at %s", what, to)
			}
			return nil
		})
	}
	for _, at := range []string{"203.0.113.1", "2a01:db8:1::1"} { // the router, by the exit's own network
		var l net.Listener
		w.router.in(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(at, "80")); return err })
		defer l.Close()
		refused("the exit's own network", net.JoinHostPort(at, "80"))
	}
	for _, at := range []string{host4, host6} {
		var l net.Listener
		w.router.in(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(at, "25")); return err })
		defer l.Close()
		refused("mail", net.JoinHostPort(at, "25"))
	}
	var m api.VPNMeter
	if err := w.vpn("alice").Meters(t.Context(), 0, func(v api.VPNMeter) error { m = v; return nil }); err != nil || int(m.Acknowledged) < 2*len(page) || float64(m.Acknowledged) > 1.1*float64(2*len(page)) {
		t.Errorf("%d bytes are paid for two pages of %d: %v", m.Acknowledged, len(page), err)
	}
	if _, err := w.inClient("down"); err != nil {
		t.Error(err)
	}
}
