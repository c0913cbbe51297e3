package carry

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestHC4_SendNeverWaitsForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(1000, false)
		hold, wrote := make(chan bool), 0
		go o.run(func([]byte) (bool, error) { <-hold; wrote++; return true, nil })
		one := [][]byte{make([]byte, 900)}
		begin, full := time.Now(), 0
		for o.counts.full.Load() == 0 {
			if o.put(one) != nil {
				t.Fatal("closed")
			}
			full++
		}
		if waited := time.Since(begin); waited != sendWait {
			t.Errorf("a full line held Send for %v, want %v", waited, sendWait)
		}
		// What the writer took, and what waits: twice the queue at most.
		if most := 2*queueSize/902 + 1; full > most || full < most/2 {
			t.Errorf("%d datagrams found room", full)
		}
		// A batch waits once, not once for each datagram.
		begin = time.Now()
		o.put([][]byte{one[0], one[0], one[0]})
		if waited := time.Since(begin); waited != sendWait || o.counts.full.Load() != 4 {
			t.Errorf("a batch: %v, %d dropped", waited, o.counts.full.Load())
		}
		// Room that comes in time is used.
		late := make(chan error)
		before := o.counts.full.Load()
		go func() { late <- o.put(one) }()
		synctest.Wait()
		close(hold)
		if err := <-late; err != nil || o.counts.full.Load() != before {
			t.Errorf("room in time: %v, %d dropped", err, o.counts.full.Load()-before)
		}
		synctest.Wait()
		if got := o.counts.sent.Load() + o.counts.full.Load() + o.counts.stale.Load(); got != uint64(full+4) || int(o.counts.sent.Load()) != wrote {
			t.Errorf("sent, full and stale are %d of %d", got, full+4)
		}
		// Whoever waits learns of the end.
		o.close()
		if err := o.put(one); err != net.ErrClosed {
			t.Errorf("after the end: %v", err)
		}
		synctest.Wait()
	})
}

func TestHC4_WhatWaitedTooLongIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(1000, false)
		defer o.close()
		hold := make(chan bool)
		go o.run(func([]byte) (bool, error) { <-hold; return true, nil })
		one := [][]byte{make([]byte, 900)}
		o.put(one)
		synctest.Wait() // it is being written
		o.put(one)
		<-time.After(staleWait + 1)
		o.put(one)
		close(hold)
		synctest.Wait()
		if sent, stale := o.counts.sent.Load(), o.counts.stale.Load(); sent != 2 || stale != 1 {
			t.Errorf("%d sent, %d stale", sent, stale)
		}
	})
}

// parcels are what a line would see of batches.
func parcels(t *testing.T, o *outbox, batches ...[][]byte) (all [][]byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer o.close()
		o.ready, o.room, o.done = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
		go o.run(func(p []byte) (bool, error) { all = append(all, bytes.Clone(p)); return true, nil })
		for _, b := range batches {
			o.put(b)
			synctest.Wait()
		}
	})
	return all
}

func TestHC8_PaddedSizesShowAsThree(t *testing.T) {
	for _, limit := range []int{1315, recordSize} {
		seen := map[int]bool{}
		for size := range 1025 {
			o := newOutbox(limit, true, streamZero)
			for _, p := range parcels(t, o, [][]byte{make([]byte, size)}) {
				seen[len(p)] = true
				got, rest, err := nextFrame(p[1:])
				if err != nil || len(got) != size || got == nil {
					t.Fatalf("%d bytes: %d, %v", size, len(got), err)
				}
				for len(rest) > 0 {
					if got, rest, err = nextFrame(rest); got != nil || err != nil {
						t.Fatalf("after %d bytes: a datagram, or %v", size, err)
					}
				}
			}
		}
		sizes := make([]int, 0, 3)
		for n := range seen {
			sizes = append(sizes, n)
		}
		slices.Sort(sizes)
		if !slices.Equal(sizes, classes[:]) {
			t.Errorf("sizes that show: %v, want %v", sizes, classes)
		}
		// WireGuard's handshake, its cookie and its keepalive look alike.
		for _, size := range []int{148, 92, 64, 32} {
			if p := parcels(t, newOutbox(limit, true, streamZero), [][]byte{make([]byte, size)}); len(p) != 1 || len(p[0]) != classes[0] {
				t.Errorf("%d bytes show as %d", size, len(p[0]))
			}
		}
	}
	// Without padding they do not.
	if p := parcels(t, newOutbox(1315, false), [][]byte{make([]byte, 148)}); len(p[0]) != 150 {
		t.Errorf("%d", len(p[0]))
	}
}

func TestSmallDatagramsShareAParcel(t *testing.T) {
	batch := make([][]byte, 20)
	for i := range batch {
		batch[i] = bytes.Repeat([]byte{byte(i)}, 96)
	}
	all := parcels(t, newOutbox(1315, false, streamZero), batch)
	if len(all) != 2 {
		t.Errorf("20 datagrams of 96 bytes are %d parcels", len(all))
	}
	i := 0
	for _, p := range all {
		if len(p) > 1315 || p[0] != streamZero {
			t.Errorf("a parcel of %d bytes for stream %d", len(p), p[0])
		}
		for row := p[1:]; len(row) > 0; i++ {
			var got []byte
			var err error
			if got, row, err = nextFrame(row); err != nil || !bytes.Equal(got, batch[i]) {
				t.Fatalf("datagram %d: %x, %v", i, got, err)
			}
		}
	}
	if i != len(batch) {
		t.Errorf("%d of %d datagrams", i, len(batch))
	}
}

func TestATooLongDatagramIsDroppedAlone(t *testing.T) {
	o := newOutbox(1000, false)
	if all := parcels(t, o, [][]byte{make([]byte, 998), make([]byte, 999), make([]byte, 10)}); len(all) != 2 || o.counts.tooLong.Load() != 1 {
		t.Errorf("%d parcels, %d too long", len(all), o.counts.tooLong.Load())
	}
}

// FuzzFrames: whatever comes is cut into frames that are the whole of it, or
// refused; and what was put together from datagrams comes apart into them.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 1, 7, 0x80, 2, 0, 0, 0, 0}, uint16(148))
	f.Add([]byte{0x80}, uint16(1))
	f.Add([]byte{0xff, 0xff, 1}, uint16(1030))
	f.Fuzz(func(t *testing.T, row []byte, size uint16) {
		for rest := row; len(rest) > 0; {
			datagram, next, err := nextFrame(rest)
			if err != nil {
				break
			}
			if len(next) >= len(rest) || len(datagram) > len(rest)-frameHead {
				t.Fatalf("a frame of %d bytes leaves %d of %d", len(datagram), len(next), len(rest))
			}
			rest = next
		}
		if len(row) > maxFrame {
			return
		}
		whole := appendFrame(nil, row)
		padded := pad(bytes.Clone(whole), int(size))
		if !bytes.HasPrefix(padded, whole) || len(padded) > max(len(whole), int(size)) {
			t.Fatalf("%d bytes are padded to %d of %d", len(whole), len(padded), size)
		}
		got, rest, err := nextFrame(padded)
		if err != nil || got == nil || !bytes.Equal(got, row) {
			t.Fatalf("%x came as %x: %v", row, got, err)
		}
		for len(rest) > 0 {
			if got, rest, err = nextFrame(rest); got != nil || err != nil {
				t.Fatalf("filler reads as %x: %v", got, err)
			}
		}
	})
}
