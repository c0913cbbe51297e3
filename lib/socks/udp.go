package socks

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// An association is what one client sends and receives as datagrams, as long as its
// connection stands (RFC 1928, section 7).
type association struct {
	s   *Server
	ctx context.Context
	pc  *net.UDPConn
	wg  sync.WaitGroup

	mu    sync.Mutex
	from  netip.AddrPort // of the client; set by its first datagram
	flows map[address]*datagrams
}

// datagrams is one flow of an association.
type datagrams struct {
	to   address
	ctx  context.Context
	end  context.CancelFunc
	up   chan []byte
	last time.Time // guarded by the association
}

const (
	upQueue     = 64
	maxDatagram = 65535
)

func (s *Server) associate(ctx context.Context, c *client) {
	local, remote := addrOf(c.LocalAddr()), addrOf(c.RemoteAddr())
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local.Addr(), 0)))
	if err != nil {
		reply(c, failed, nil)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &association{s: s, ctx: ctx, pc: pc, flows: map[address]*datagrams{}}
	defer a.wg.Wait()
	defer pc.Close()
	defer cancel()
	if reply(c, succeeded, pc.LocalAddr()) != nil {
		return
	}
	c.SetDeadline(time.Time{})
	a.wg.Go(func() { a.receive(remote.Addr()) })
	a.wg.Go(a.expire)
	io.Copy(io.Discard, c)
}

func addrOf(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// receive takes the client's datagrams, until the socket is closed.
func (a *association) receive(client netip.Addr) {
	b := make([]byte, maxDatagram)
	for {
		n, from, err := a.pc.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		a.mu.Lock()
		if !a.from.IsValid() && from.Addr() == client {
			a.from = from
		}
		known := a.from == from
		a.mu.Unlock()
		to, data, ok := parseDatagram(b[:n])
		if !known || !ok {
			continue
		}
		select {
		case a.flow(to).up <- bytes.Clone(data):
		default: // it is lost, as datagrams are
		}
	}
}

// parseDatagram takes one apart; those in fragments are refused (RFC 1928, section 7,
// lets who does not join them drop them).
func parseDatagram(b []byte) (to address, data []byte, ok bool) {
	if len(b) < 4 || b[0] != 0 || b[1] != 0 || b[2] != 0 {
		return to, nil, false
	}
	r := bytes.NewReader(b[3:])
	to, err := readAddress(r)
	return to, b[len(b)-r.Len():], err == nil
}

// flow finds or begins one. A table that is full loses the oldest.
func (a *association) flow(to address) *datagrams {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.flows[to]; d != nil {
		d.last = time.Now()
		return d
	}
	if len(a.flows) >= a.s.cfg.MaxFlows {
		var oldest *datagrams
		for _, d := range a.flows {
			if oldest == nil || d.last.Before(oldest.last) {
				oldest = d
			}
		}
		oldest.end()
		delete(a.flows, oldest.to)
	}
	d := &datagrams{to: to, up: make(chan []byte, upQueue), last: time.Now()}
	d.ctx, d.end = context.WithCancel(a.ctx)
	a.flows[to] = d
	a.wg.Go(func() { a.carry(d) })
	return d
}

// carry is one flow, until it ends.
func (a *association) carry(d *datagrams) {
	defer func() {
		d.end()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.flows[d.to] == d {
			delete(a.flows, d.to)
		}
	}()
	out, err := a.s.cfg.Dial(d.ctx, "udp", d.to.String())
	if err != nil {
		a.s.cfg.Log.Debug("proxy datagrams", "err", err)
		return
	}
	stop := atEnd(d.ctx, func() { out.Close() })
	defer stop()
	defer out.Close()
	a.wg.Go(func() { a.answers(d, out) })
	for {
		select {
		case b := <-d.up:
			out.Write(b)
		case <-d.ctx.Done():
			return
		}
	}
}

// answers carries what comes back to the client.
func (a *association) answers(d *datagrams, out net.Conn) {
	defer d.end()
	head := d.to.append([]byte{0, 0, 0})
	b := make([]byte, len(head)+maxDatagram)
	copy(b, head)
	for {
		n, err := out.Read(b[len(head):])
		if err != nil {
			return
		}
		a.mu.Lock()
		d.last = time.Now()
		to := a.from
		a.mu.Unlock()
		a.pc.WriteToUDPAddrPort(b[:len(head)+n], to)
	}
}

// expire ends flows that idle.
func (a *association) expire() {
	tick := time.NewTicker(max(a.s.cfg.IdleUDP/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case now := <-tick.C:
			a.mu.Lock()
			for _, d := range a.flows {
				if now.Sub(d.last) > a.s.cfg.IdleUDP {
					d.end()
				}
			}
			a.mu.Unlock()
		}
	}
}
