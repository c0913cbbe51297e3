package chain

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/top"
)

// doors are full nodes that a light client reaches without a network: an
// http.Handler behind each address.
type doors struct {
	mu  sync.Mutex
	lns map[string]*pipes
}

func newDoors(t *testing.T) *doors {
	d := &doors{lns: map[string]*pipes{}}
	t.Cleanup(func() {
		for _, p := range d.lns {
			p.srv.Close()
		}
	})
	return d
}

// add serves h at addr.
func (d *doors) add(addr string, h http.Handler) {
	p := &pipes{conns: make(chan net.Conn), gone: make(chan struct{}), srv: &http.Server{Handler: h}}
	d.mu.Lock()
	d.lns[addr] = p
	d.mu.Unlock()
	go p.srv.Serve(p)
}

func (d *doors) dial(ctx context.Context, addr string) (net.Conn, error) {
	d.mu.Lock()
	p := d.lns[addr]
	d.mu.Unlock()
	if p == nil {
		return nil, top.Errorf(top.Offline, "nobody at %s", addr)
	}
	a, b := net.Pipe()
	select {
	case p.conns <- b:
		return a, nil
	case <-p.gone:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// pipes is a listener of net.Pipe connections.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	gone  chan struct{}
	srv   *http.Server
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.gone:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.gone) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// lightHome is a home that Setup made for a light client.
func lightHome(t *testing.T, genesis []byte) home.Dir {
	t.Helper()
	dir := shortDir(t)
	if err := Setup(dir, genesis, Join{Light: true}, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runningLight is a light client that runs.
type runningLight struct {
	*Light
	api  *api.Chain
	stop func() error
}

// startLight runs a light client until stop or the test's end.
func startLight(t *testing.T, cfg LightConfig) *runningLight {
	t.Helper()
	ready := make(chan struct{})
	cfg.Ready = func() error { close(ready); return nil }
	l, err := NewLight(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	<-ready
	return &runningLight{l, api.NewChain(sock.Dial(l.cfg.Sock, "top-chain serve")), stop}
}

func TestLightClientOfARealChain(t *testing.T) {
	n := newNetwork(t, 4)
	n.startAll()
	d := newDoors(t)
	d.add("a", n.nodes[0].server.Handler(true))
	d.add("b", n.nodes[1].server.Handler(true))
	l := startLight(t, LightConfig{Home: lightHome(t, n.genesis), Peers: []string{"a", "b"}, dial: d.dial})
	bob := someone(1)
	s, err := l.api.Submit(t.Context(), n.transfer(1, bob, 3*top.One))
	if err != nil {
		t.Fatal(err)
	}
	tx, err := l.api.Tx(t.Context(), s.ID, 20*time.Second)
	if err != nil || !tx.OK || tx.From != n.rich.Public() {
		t.Fatalf("transaction %+v, %v", tx, err)
	}
	a, err := l.api.Account(t.Context(), bob)
	if err != nil || !a.Exists || a.At.Height <= tx.Height {
		t.Fatalf("account %+v, %v", a, err)
	}
}
