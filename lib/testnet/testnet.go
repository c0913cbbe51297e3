// Package testnet is the lines between processes of a test, in user space: TCP with
// a delay, a loss and partitions for each pair, for kernels without netem. Loss is
// what a stream makes of it: a lost segment holds up all behind it until it is sent
// again. It is for tests alone.
//
//	N1  bytes arrive whole and in order, at the earliest a delay after they were sent
//	N2  nothing passes between two sides of a partition, and what was sent meanwhile
//	    arrives when it heals, as it would by TCP
package testnet

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// A Shape is what a line does to bytes in both directions.
type Shape struct {
	Delay time.Duration // one way
	Loss  float64       // of segments, 0 to 1
}

const (
	segment = 1_448                  // bytes, of an Ethernet frame
	again   = 200 * time.Millisecond // until a lost segment is sent again (RFC 6298: the least timeout that systems use)
	window  = 4_096                  // chunks under way on a line
)

// A Net is lines by the names of their ends.
type Net struct {
	mu    sync.Mutex
	sides map[string]int // of a partition; nil when there is none
	heal  chan struct{}  // closed when there is none any more
	lns   []net.Listener
	conns map[net.Conn]bool
	wg    sync.WaitGroup
	ended bool
}

// New is a net without lines.
func New() *Net {
	heal := make(chan struct{})
	close(heal)
	return &Net{heal: heal, conns: map[net.Conn]bool{}}
}

// Line is an address where from reaches what listens at target, named to.
func (n *Net) Line(from, to, target string, s Shape) (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("line from %s to %s: %w", from, to, err)
	}
	n.mu.Lock()
	n.lns = append(n.lns, ln)
	n.mu.Unlock()
	n.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			n.wg.Go(func() { n.carry(in, [2]string{from, to}, target, s) })
		}
	})
	return ln.Addr().String(), nil
}

// Cut parts the net: each end of a side reaches its own side alone; who is on no side
// reaches nobody.
func (n *Net) Cut(sides ...[]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sides == nil {
		n.heal = make(chan struct{})
	}
	n.sides = map[string]int{}
	for i, side := range sides {
		for _, name := range side {
			n.sides[name] = i + 1
		}
	}
}

// Heal ends a partition.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sides != nil {
		n.sides = nil
		close(n.heal)
	}
}

// Close ends all lines.
func (n *Net) Close() {
	n.Heal()
	n.mu.Lock()
	n.ended = true
	for _, ln := range n.lns {
		ln.Close()
	}
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// parted gives what is closed once the ends may talk; nil when they may now.
func (n *Net) parted(ends [2]string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sides == nil || n.sides[ends[0]] > 0 && n.sides[ends[0]] == n.sides[ends[1]] {
		return nil
	}
	return n.heal
}

// keep remembers a connection, unless the net has ended.
func (n *Net) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		c.Close()
		return false
	}
	n.conns[c] = true
	return true
}

// carry is one connection, until either end of it closes.
func (n *Net) carry(in net.Conn, ends [2]string, target string, s Shape) {
	if !n.keep(in) {
		return
	}
	// A connection is made by packets as well.
	for wait := n.parted(ends); wait != nil; wait = n.parted(ends) {
		<-wait
	}
	out, err := net.Dial("tcp", target)
	if err != nil {
		in.Close()
		return
	}
	if !n.keep(out) {
		in.Close()
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			n.pump(way[0], way[1], ends, s)
			in.Close()
			out.Close()
		})
	}
	both.Wait()
	n.mu.Lock()
	delete(n.conns, in)
	delete(n.conns, out)
	n.mu.Unlock()
}

type chunk struct {
	due  time.Time
	data []byte
}

// pump passes bytes on, late (N1), and none over a partition (N2).
func (n *Net) pump(from, to net.Conn, ends [2]string, s Shape) {
	under := make(chan chunk, window)
	go func() {
		defer close(under)
		last := time.Time{}
		for {
			b := make([]byte, 8<<10)
			k, err := from.Read(b)
			if k > 0 {
				due := time.Now().Add(s.Delay)
				for range (k + segment - 1) / segment {
					if rand.Float64() < s.Loss {
						due = due.Add(again)
					}
				}
				if due.Before(last) {
					due = last
				}
				last = due
				under <- chunk{due, b[:k]}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for c := range under {
		if broken {
			continue
		}
		if d := time.Until(c.due); d > 0 {
			<-time.After(d)
		}
		for wait := n.parted(ends); wait != nil; wait = n.parted(ends) {
			<-wait
		}
		if _, err := to.Write(c.data); err != nil && !errors.Is(err, io.EOF) {
			broken = true
			from.Close()
		}
	}
}
