package wg

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"

	"top/lib/top"
)

// Config says what a Device is.
type Config struct {
	Key    Private
	Line   Line
	Tap    Tap        // nil lets all pass
	Way    conn.Bind  // nil is UDP; of this package: Hop, Carried, Ways
	Listen uint16     // port of UDP; 0 is any
	Mark   uint32     // of the packets outside, for routes and the kill switch; 0 is none
	Admit  *Admission // strangers may shake hands; nil admits the configured peers alone
	Log    *slog.Logger
}

// A Device is one end of tunnels to its peers.
type Device struct {
	dev  *device.Device
	face *face
	log  *slog.Logger
	port uint16

	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	closed bool
	uapi   net.Listener
	path   string            // of its socket
	conns  map[net.Conn]bool // to the socket of wg
}

// New makes a device and starts it.
func New(cfg Config) (*Device, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Way == nil {
		cfg.Way = newUDP(false)
	}
	if cfg.Key == (Private{}) {
		return nil, top.Errorf(top.Invalid, "a WireGuard device needs a key")
	}
	d := &Device{face: newFace(cfg.Line, cfg.Tap), log: cfg.Log, stop: make(chan struct{})}
	if cfg.Admit != nil {
		cfg.Admit.begin(cfg.Key, d)
		g := newGate(cfg.Way, cfg.Admit)
		cfg.Way = g
		d.done.Go(func() { g.run(d.stop) })
	}
	d.dev = device.NewDevice(d.face, cfg.Way, &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { d.log.Debug("wireguard", "err", fmt.Sprintf(format, args...)) },
	})
	conf := "private_key=" + cfg.Key.hex() + "\nlisten_port=" + strconv.Itoa(int(cfg.Listen)) + "\n"
	if cfg.Mark != 0 {
		conf += "fwmark=" + strconv.FormatUint(uint64(cfg.Mark), 10) + "\n"
	}
	err := d.set(conf)
	if err == nil {
		if err = d.dev.Up(); err != nil {
			kind, hint := top.Failed, "a mark needs CAP_NET_ADMIN"
			if errors.Is(err, syscall.EADDRINUSE) {
				kind, hint = top.Busy, "another program has it: choose another"
			}
			err = top.Errorf(kind, "listen on UDP port %d: %v (%s)", cfg.Listen, err, hint)
		}
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	stats, err := d.dev.IpcGet()
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("read the device: %w", err)
	}
	for key, value := range pairs(stats) {
		if key == "listen_port" {
			n, _ := strconv.ParseUint(value, 10, 16)
			d.port = uint16(n)
		}
	}
	return d, nil
}

// Port is where it listens.
func (d *Device) Port() uint16 { return d.port }

func (d *Device) set(conf string) error {
	if err := d.dev.IpcSet(conf); err != nil {
		return fmt.Errorf("configure WireGuard: %w", err)
	}
	return nil
}

// A Peer is the other end of a tunnel.
type Peer struct {
	Key       Key
	Endpoint  string         // "" until it calls
	Allowed   []netip.Prefix // inner addresses that are his
	Keepalive time.Duration  // in whole seconds, up to 65,535; 0 is none
	Preshared [32]byte       // zero is none
}

// SetPeer adds a peer, or makes one that is there so: without an endpoint it keeps the
// one that it has, and its tunnel goes on.
func (d *Device) SetPeer(p Peer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%x\n", p.Key.hex(), p.Preshared)
	if p.Endpoint != "" {
		// It comes from strangers, and a zone could hold lines of its own.
		if a, err := netip.ParseAddrPort(p.Endpoint); err != nil || a.Addr().Zone() != "" && strings.ContainsFunc(p.Endpoint, unicode.IsControl) {
			return top.Errorf(top.Invalid, "%q is no endpoint (want ADDRESS:PORT)", p.Endpoint)
		}
		fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
	}
	seconds := (p.Keepalive + time.Second - 1) / time.Second
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", seconds)
	for _, a := range p.Allowed {
		fmt.Fprintf(&b, "allowed_ip=%s\n", a)
	}
	return d.set(b.String())
}

// RemovePeer forgets a peer.
func (d *Device) RemovePeer(k Key) error {
	return d.set("public_key=" + k.hex() + "\nremove=true\n")
}

// Inject seals and sends packets of ours, each to the peer that its destination is
// the address of. It keeps them, and says for how many there was room.
func (d *Device) Inject(pkts ...[]byte) int { return d.face.inject(pkts) }

// A Contact is what is known of a peer's tunnel.
type Contact struct {
	Key       Key
	Endpoint  string
	Handshake time.Time // the last; zero is none
	Received  uint64    // bytes of datagrams that decrypted
	Sent      uint64
}

// Contacts are those of all peers.
func (d *Device) Contacts() (all []Contact, err error) {
	text, err := d.dev.IpcGet()
	if err != nil {
		return nil, fmt.Errorf("read the device: %w", err)
	}
	var sec, nano int64
	for key, value := range pairs(text) {
		if key == "public_key" {
			all = append(all, Contact{})
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != len(Key{}) {
				return nil, fmt.Errorf("key %q: %w", value, top.ErrInvalid)
			}
			all[len(all)-1].Key = Key(b)
			sec, nano = 0, 0
		}
		if len(all) == 0 {
			continue
		}
		c := &all[len(all)-1]
		n, _ := strconv.ParseUint(value, 10, 64)
		switch key {
		case "endpoint":
			c.Endpoint = value
		case "rx_bytes":
			c.Received = n
		case "tx_bytes":
			c.Sent = n
		case "last_handshake_time_sec":
			sec = int64(n)
		case "last_handshake_time_nsec":
			if nano = int64(n); sec != 0 {
				c.Handshake = time.Unix(sec, nano)
			}
		}
	}
	return all, nil
}

// pairs are the lines of a UAPI answer (https://www.wireguard.com/xplatform/).
func pairs(text string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), "="); ok && !yield(k, v) {
				return
			}
		}
	}
}

// Done is closed when the tunnels have ended: by Close, or because the line did.
func (d *Device) Done() <-chan struct{} { return d.dev.Wait() }

// Close ends all tunnels, and waits for what it runs. The line stays.
func (d *Device) Close() {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.stop)
	}
	if d.uapi != nil {
		os.Remove(d.path)
		d.uapi.Close()
		d.uapi = nil
	}
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.dev.Close()
	d.done.Wait()
}
