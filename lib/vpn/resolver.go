package vpn

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A resolver passes questions on to the host's own, and tells the policy what names
// were answered with.
type resolver struct {
	upstream []netip.AddrPort
	learn    func(name string, addrs []netip.Addr, ttl time.Duration)
}

const (
	maxDNS      = 4096 // bytes of a datagram (EDNS, RFC 6891)
	dnsWait     = 2 * time.Second
	dnsAsking   = 256 // questions under way
	dnsStreams  = 64  // open at once
	dnsOfOne    = 8   // of them, of one client
	dnsIdle     = 10 * time.Second
	resolvLines = 3 // nameservers that count (resolv.conf(5))
)

// systemResolvers are those that the host asks.
func systemResolvers(path string) (all []netip.AddrPort) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan() && len(all) < resolvLines; {
			w := strings.Fields(s.Text())
			if len(w) < 2 || w[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(w[1]); err == nil {
				all = append(all, netip.AddrPortFrom(a, 53))
			}
		}
	}
	if len(all) == 0 {
		all = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return all
}

// datagrams answers until pc closes.
func (r *resolver) datagrams(ctx context.Context, pc net.PacketConn) {
	asking := make(chan struct{}, dnsAsking)
	buf := make([]byte, maxDNS)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			break
		}
		q := append([]byte{}, buf[:n]...)
		select {
		case asking <- struct{}{}:
		default:
			continue // asked again by whoever waits
		}
		go func() {
			defer func() { <-asking }()
			if a := r.ask(ctx, "udp", q); a != nil {
				pc.WriteTo(a, from)
			}
		}()
	}
	for range dnsAsking {
		asking <- struct{}{} // nobody asks any more
	}
}

// streams answers over TCP (RFC 7766) until l closes. A client who has as many open
// as one may have is turned away, so that the others find room.
func (r *resolver) streams(ctx context.Context, l net.Listener) {
	var mu sync.Mutex
	of := map[string]int{}
	count := func(who string, n int) bool {
		mu.Lock()
		defer mu.Unlock()
		if of[who]+n > dnsOfOne {
			return false
		}
		if of[who] += n; of[who] == 0 {
			delete(of, who)
		}
		return true
	}
	open := make(chan struct{}, dnsStreams)
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		who, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if !count(who, 1) {
			c.Close()
			continue
		}
		open <- struct{}{}
		go func() {
			defer func() { count(who, -1); <-open }()
			defer c.Close()
			r.stream(ctx, c)
		}()
	}
	for range dnsStreams {
		open <- struct{}{}
	}
}

func (r *resolver) stream(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		c.SetDeadline(time.Now().Add(dnsIdle))
		q, err := readFramed(c)
		if err != nil {
			return
		}
		a := r.ask(ctx, "tcp", q)
		if a == nil || writeFramed(c, a) != nil {
			return
		}
	}
}

func readFramed(c io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(c, b)
	return b, err
}

func writeFramed(c io.Writer, b []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// ask gives the answer to a question; nil when it is none.
func (r *resolver) ask(ctx context.Context, network string, q []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(q)
	if err != nil || h.Response {
		return nil
	}
	question, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.TrimSuffix(question.Name.String(), ".")
	a, err := r.pass(ctx, network, q)
	if err != nil {
		return refusal(h, question, dnsmessage.RCodeServerFailure)
	}
	r.note(name, a)
	return a
}

// pass asks one resolver after the other.
func (r *resolver) pass(ctx context.Context, network string, q []byte) ([]byte, error) {
	for _, up := range r.upstream {
		a, err := once(ctx, network, up, q)
		if err == nil {
			return a, nil
		}
	}
	return nil, errNoResolver
}

func once(ctx context.Context, network string, up netip.AddrPort, q []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsWait)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, up.String()) // a port of its own for each question: nobody guesses it
	if err != nil {
		return nil, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if network == "tcp" {
		if err := writeFramed(c, q); err != nil {
			return nil, err
		}
		return readFramed(c)
	}
	if _, err := c.Write(q); err != nil {
		return nil, err
	}
	b := make([]byte, maxDNS)
	for {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if n >= 12 && len(q) >= 2 && b[0] == q[0] && b[1] == q[1] {
			return b[:n], nil
		}
	}
}

// note tells the policy which addresses a name has.
func (r *resolver) note(name string, answer []byte) {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil || p.SkipAllQuestions() != nil {
		return
	}
	var addrs []netip.Addr
	ttl := time.Hour
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := p.AResource()
			if err != nil {
				return
			}
			addrs = append(addrs, netip.AddrFrom4(a.A))
		case dnsmessage.TypeAAAA:
			a, err := p.AAAAResource()
			if err != nil {
				return
			}
			addrs = append(addrs, netip.AddrFrom16(a.AAAA))
		default:
			if p.SkipAnswer() != nil {
				return
			}
			continue
		}
		ttl = min(ttl, time.Duration(h.TTL)*time.Second)
	}
	if len(addrs) > 0 {
		r.learn(name, addrs, max(ttl, time.Minute))
	}
}

func refusal(h dnsmessage.Header, q dnsmessage.Question, code dnsmessage.RCode) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code}, Questions: []dnsmessage.Question{q}}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
