package carry

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"top/lib/top"
)

// Bounds on who has proved nothing (HC5).
const (
	maxStrangers  = 1024    // connections
	maxPerSource  = 64      // of them, from one source
	maxRate       = 32      // handshakes a second, from one source, after maxPerSource at once
	maxSources    = 1 << 16 // that are remembered
	maxHeaderSize = 64 << 10
)

// patience is how long a stranger is waited for.
type patience struct {
	header time.Duration // the TLS handshake, and each request's header
	body   time.Duration // a request
	answer time.Duration // until the answer has been taken
	quiet  time.Duration // between requests
	life   time.Duration // of a connection
}

func usualPatience() patience {
	return patience{header: 10 * time.Second, body: time.Minute, answer: 5 * time.Minute, quiet: 2 * time.Minute, life: 10 * time.Minute}
}

// strangers counts the connections of those who have proved nothing.
type strangers struct {
	most, mostEach int

	mu   sync.Mutex
	all  int
	each map[netip.Addr]*source
}

// A source is an IPv4 address, or the /64 of an IPv6 one.
type source struct {
	open   int
	tokens int // handshakes that it may begin
	at     time.Time
}

func newStrangers(most, each int) *strangers {
	s := &strangers{most: most, mostEach: each, each: map[netip.Addr]*source{}}
	if s.most == 0 {
		s.most = maxStrangers
	}
	if s.mostEach == 0 {
		s.mostEach = maxPerSource
	}
	return s
}

// sourceOf finds whom an address is counted for.
func sourceOf(a net.Addr) netip.Addr {
	addr := addrPort(a).Addr().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// enter counts a connection that begins at now; leave must be called once for it.
// top.ErrBusy is none of them.
func (s *strangers) enter(a net.Addr, now time.Time) (leave func(), err error) {
	key := sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.each[key]
	if from == nil {
		if len(s.each) >= maxSources {
			s.forgetLocked(now)
		}
		from = &source{tokens: s.mostEach, at: now}
	}
	if grown := int(now.Sub(from.at) * maxRate / time.Second); grown > 0 {
		from.tokens, from.at = min(s.mostEach, from.tokens+grown), now
	}
	if s.all >= s.most || from.open >= s.mostEach || from.tokens == 0 || len(s.each) >= maxSources {
		return nil, fmt.Errorf("too many connections: %w", top.ErrBusy)
	}
	s.each[key] = from
	s.all++
	from.open++
	from.tokens--
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		from.open--
	}), nil
}

// forgetLocked drops the sources that are as if they had never come.
func (s *strangers) forgetLocked(now time.Time) {
	for key, from := range s.each {
		if from.open == 0 && now.Sub(from.at) > time.Duration(s.mostEach)*time.Second/maxRate {
			delete(s.each, key)
		}
	}
}

// crowded says that half of the places are taken: then a QUIC source has to show
// that its address is its own (RFC 9000, section 8.1.2).
func (s *strangers) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all >= s.most/2
}

// A gate lets TCP connections in.
type gate struct {
	net.Listener
	strangers *strangers
	life      time.Duration
}

// A guest is a TCP connection that is counted until it proves something or ends.
type guest struct {
	net.Conn
	known func() // it is no stranger any more
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, err := g.strangers.enter(c.RemoteAddr(), time.Now())
		if err != nil {
			c.Close()
			continue
		}
		life := time.AfterFunc(g.life, func() { c.Close() })
		return &guest{c, func() { life.Stop(); leave() }}, nil
	}
}

func (g *guest) Close() error {
	g.known()
	return g.Conn.Close()
}
