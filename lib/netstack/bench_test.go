package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	clientAddr = netip.MustParseAddr("10.7.0.2")
	exitAddr   = netip.MustParseAddr("10.7.0.1")
	client6    = netip.MustParseAddr("fd07::2")
	exit6      = netip.MustParseAddr("fd07::1")
)

// carryAll hands those packets that see lets pass from one stack to the other, until
// one is closed.
func carryAll(from, to *Stack, see func([]byte) bool) {
	bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	out := make([][]byte, 0, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, 16)
		if err != nil {
			return
		}
		out = out[:0]
		for i := range n {
			if b := bufs[i][:16+sizes[i]]; see == nil || see(b[16:]) {
				out = append(out, b)
			}
		}
		if _, err := to.Write(out, 16); err != nil {
			return
		}
	}
}

// join makes a client and an exit, back to back.
func join(t testing.TB, f *Forward, see func([]byte) bool) (client, exit *Stack) {
	t.Helper()
	client, err := New(Config{Addrs: []netip.Addr{clientAddr, client6}})
	if err != nil {
		t.Fatal(err)
	}
	exit, err = New(Config{Addrs: []netip.Addr{exitAddr, exit6}, Forward: f})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { carryAll(client, exit, see) })
	wg.Go(func() { carryAll(exit, client, see) })
	t.Cleanup(func() {
		client.Close()
		exit.Close()
		wg.Wait()
	})
	return client, exit
}

// toHost connects every flow to one address of the host.
func toHost(network string, addr net.Addr) func(context.Context, Flow) (net.Conn, error) {
	return func(ctx context.Context, _ Flow) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr.String())
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchTCP(b *testing.B, download bool, far string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	const chunk = 1 << 20
	total := int64(b.N) * chunk
	block := make([]byte, chunk)
	send := func(c net.Conn) {
		for sent := int64(0); sent < total; sent += chunk {
			if _, err := c.Write(block); err != nil {
				b.Error(err)
				return
			}
		}
	}
	receive := func(c net.Conn) {
		if n, err := io.CopyN(io.Discard, c, total); err != nil {
			b.Error(n, err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if download {
			send(c)
		} else {
			receive(c)
		}
	}()
	client, _ := join(b, &Forward{TCP: toHost("tcp", ln.Addr())}, nil)
	c, err := client.DialContext(context.Background(), "tcp", far)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(chunk)
	b.ResetTimer()
	before := cpu()
	if download {
		receive(c)
	} else {
		send(c)
	}
	<-done
	b.ReportMetric((cpu()-before).Seconds()*1000/float64(b.N), "cpu-ms/MiB")
}

// Bulk TCP through a client and an exit, with a real socket behind the exit.
func BenchmarkUpload(b *testing.B)    { benchTCP(b, false, "192.0.2.1:80") }
func BenchmarkDownload(b *testing.B)  { benchTCP(b, true, "192.0.2.1:80") }
func BenchmarkDownload6(b *testing.B) { benchTCP(b, true, "[2001:db8::1]:80") }
