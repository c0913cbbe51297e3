package mesh

import (
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

// A stream through a circuit relay v2 over TCP, all three hosts in one process:
// what BenchmarkFile of lib/relay is compared with. Nothing of it touches a disk.
func BenchmarkCircuit(b *testing.B) {
	plain := func(more ...libp2p.Option) host.Host {
		h, err := libp2p.New(append([]libp2p.Option{
			libp2p.Transport(tcp.NewTCPTransport), libp2p.Security(noise.ID, noise.New), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics(),
		}, more...)...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { h.Close() })
		return h
	}
	hop := plain()
	limits := relay.DefaultResources()
	limits.Limit = nil
	r, err := relay.New(hop, relay.WithResources(limits))
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	at := peer.AddrInfo{ID: hop.ID(), Addrs: hop.Addrs()}
	bob, alice := plain(libp2p.EnableRelay()), plain(libp2p.EnableRelay())
	for _, h := range []host.Host{bob, alice} {
		if err := h.Connect(b.Context(), at); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := client.Reserve(b.Context(), bob, at); err != nil {
		b.Fatal(err)
	}
	const size = 64 << 20
	done := make(chan int64)
	bob.SetStreamHandler("/bench", func(s network.Stream) {
		n, _ := io.Copy(io.Discard, io.LimitReader(s, size))
		done <- n
	})
	through, err := multiaddr.NewMultiaddr(hop.Addrs()[0].String() + "/p2p/" + hop.ID().String() + "/p2p-circuit/p2p/" + bob.ID().String())
	if err != nil {
		b.Fatal(err)
	}
	alice.Peerstore().AddAddr(bob.ID(), through, time.Hour)
	ctx := network.WithAllowLimitedConn(b.Context(), "bench")
	buf := make([]byte, 1<<20)
	b.SetBytes(size)
	for b.Loop() {
		s, err := alice.NewStream(ctx, bob.ID(), "/bench")
		if err != nil {
			b.Fatal(err)
		}
		for range size / len(buf) {
			if _, err := s.Write(buf); err != nil {
				b.Fatal(err)
			}
		}
		if n := <-done; n != size {
			b.Fatalf("%d bytes", n)
		}
		s.Reset()
	}
}
