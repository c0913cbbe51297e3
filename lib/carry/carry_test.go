package carry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"top/lib/top"
)

var kinds = []Kind{QUIC, WSS}

// serve runs a server until the test ends.
func serve(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	if cfg.Key == ([32]byte{}) {
		rand.Read(cfg.Key[:])
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// dial is how a client would be set up for s.
func (s *Server) dial(kind Kind) DialConfig {
	pin, err := s.Pin()
	if err != nil {
		panic(err)
	}
	return DialConfig{Kind: kind, Addr: s.Addr().String(), ServerName: "localhost", Key: s.cfg.Key, Pin: pin, Pad: s.cfg.Pad}
}

// pair is both ends of one carrier.
func pair(t testing.TB, kind Kind, padded bool) (client, server Conn) {
	t.Helper()
	s := serve(t, ServerConfig{Pad: padded})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client, err := Dial(ctx, s.dial(kind))
	if err != nil {
		t.Fatal(err)
	}
	server, err = s.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestHC3_ADatagramComesOutAsItWasPutIn(t *testing.T) {
	for _, kind := range kinds {
		for _, padded := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,pad=%v", kind, padded), func(t *testing.T) {
				client, server := pair(t, kind, padded)
				for _, way := range [][2]Conn{{client, server}, {server, client}} {
					echo(t, way[0], way[1])
				}
			})
		}
	}
}

// echo sends datagrams of every size in batches, and wants each at the other end,
// whole. It waits for each batch, so that no queue is full.
func echo(t *testing.T, from, to Conn) {
	t.Helper()
	text := make([]byte, 2000)
	rand.Read(text)
	bufs, sizes := make([][]byte, 64), make([]int, 64)
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	for size := 0; size <= 1312; size += 41 {
		var out [][]byte
		for i := range 8 {
			out = append(out, text[i:i+size])
		}
		if err := from.Send(out); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(out); {
			n, err := to.Receive(bufs, sizes)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				// The order is kept on a line that loses nothing.
				if !bytes.Equal(bufs[i][:sizes[i]], out[got]) {
					t.Fatalf("datagram %d of %d bytes came as %d others", got, size, sizes[i])
				}
				got++
			}
		}
	}
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	s := serve(t, ServerConfig{})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for _, kind := range kinds {
		good := s.dial(kind)
		for name, tc := range map[string]struct {
			change func(*DialConfig)
			want   error
		}{
			"another key":  {func(c *DialConfig) { c.Key[0]++ }, top.ErrDenied},
			"another pin":  {func(c *DialConfig) { c.Pin[0]++ }, top.ErrDenied},
			"no root":      {func(c *DialConfig) { c.Pin = [32]byte{} }, top.ErrDenied},
			"two ways":     {func(c *DialConfig) { c.AnyCertificate = true }, top.ErrUsage},
			"no port":      {func(c *DialConfig) { c.Addr = "127.0.0.1"; c.ServerName = "" }, top.ErrUsage},
			"no such kind": {func(c *DialConfig) { c.Kind = "ftp" }, top.ErrUsage},
		} {
			bad := good
			tc.change(&bad)
			if c, err := Dial(t.Context(), bad); !errors.Is(err, tc.want) {
				t.Errorf("%s, %s: %v, %v", kind, name, c, err)
			}
		}
		for name, change := range map[string]func(*DialConfig){
			"pin": func(*DialConfig) {},
			"any": func(c *DialConfig) { c.Pin, c.AnyCertificate = [32]byte{}, true },
		} {
			cfg := good
			change(&cfg)
			c, err := Dial(t.Context(), cfg)
			if err != nil {
				t.Fatalf("%s, %s: %v", kind, name, err)
			}
			c.Close()
		}
	}
	cfg := s.dial(WSS)
	cfg.Addr = gone.Addr().String()
	if _, err := Dial(t.Context(), cfg); !errors.Is(err, top.ErrOffline) {
		t.Errorf("nobody there: %v", err)
	}
}
