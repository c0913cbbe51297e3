package testnet

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

func dial(t *testing.T, n *Net, s Shape) net.Conn {
	t.Helper()
	addr, err := n.Line("a", "b", echo(t), s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestN1_WholeInOrderAndLate(t *testing.T) {
	n := New()
	defer n.Close()
	c := dial(t, n, Shape{Delay: 30 * time.Millisecond, Loss: 0.02})
	sent := make([]byte, 300<<10)
	rand.Read(sent)
	began := time.Now()
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("the bytes are others")
	}
	if d := time.Since(began); d < 60*time.Millisecond {
		t.Errorf("there and back in %s", d)
	}
}

func TestN2_NothingPassesAPartition(t *testing.T) {
	n := New()
	defer n.Close()
	c := dial(t, n, Shape{})
	b := make([]byte, 1)
	turn := func(v byte) error {
		c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Write([]byte{v}); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b)
		return err
	}
	if err := turn(1); err != nil || b[0] != 1 {
		t.Fatal(b, err)
	}
	n.Cut([]string{"a"}, []string{"b"})
	if err := turn(2); err == nil {
		t.Fatal("it passed a partition")
	}
	n.Cut([]string{"a", "b"}, []string{"c"})
	n.Heal()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, b); err != nil || b[0] != 2 {
		t.Fatalf("what was sent meanwhile: %v %v", b, err)
	}
	if err := turn(3); err != nil || b[0] != 3 {
		t.Fatal(b, err)
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	n := New()
	n.Cut()
	c := dial(t, n, Shape{})
	c.Write([]byte{1})
	n.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a line goes on after the end")
	}
}
