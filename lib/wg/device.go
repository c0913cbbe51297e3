package wg

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"

	"top/lib/top"
)

// Config says what a Device is.
type Config struct {
	Key    Private
	Line   Line
	Tap    Tap
	Way    conn.Bind  // nil is UDP; of this package: Hop, Carried
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

	mu   sync.Mutex
	uapi net.Listener
	done sync.WaitGroup
}

// New makes a device and starts it.
func New(cfg Config) (*Device, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Way == nil {
		cfg.Way = conn.NewStdNetBind()
	}
	d := &Device{face: newFace(cfg.Line, cfg.Tap), log: cfg.Log}
	if cfg.Admit != nil {
		cfg.Admit.begin(cfg.Key, d)
		cfg.Way = &gate{Bind: cfg.Way, admit: cfg.Admit}
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
			err = top.Errorf(top.Failed, "listen on UDP port %d: %v (is the port taken?)", cfg.Listen, err)
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
	Keepalive time.Duration  // 0 is none
	Preshared [32]byte       // zero is none
}

// SetPeer adds a peer, or gives one that is there these addresses.
func (d *Device) SetPeer(p Peer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\n", p.Key.hex())
	if p.Preshared != [32]byte{} {
		fmt.Fprintf(&b, "preshared_key=%x\n", p.Preshared)
	}
	if p.Endpoint != "" {
		fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
	}
	if p.Keepalive > 0 {
		fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", max(1, int(p.Keepalive/time.Second)))
	}
	b.WriteString("replace_allowed_ips=true\n")
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
			if err := hexKey(&all[len(all)-1].Key, value); err != nil {
				return nil, err
			}
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

func hexKey(k *Key, s string) error {
	if len(s) != 64 {
		return fmt.Errorf("key %q: %w", s, top.ErrInvalid)
	}
	for i := range k {
		n, err := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		if err != nil {
			return fmt.Errorf("key %q: %w", s, top.ErrInvalid)
		}
		k[i] = byte(n)
	}
	return nil
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

// ServeUAPI lets wg(8) look at the device under a name, on its socket in
// /var/run/wireguard, until Close.
func (d *Device) ServeUAPI(name string) error {
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return top.Errorf(top.Denied, "open the socket of wg for %s: %v (needs root)", name, err)
	}
	l, err := ipc.UAPIListen(name, file)
	if err != nil {
		file.Close()
		return top.Errorf(top.Failed, "listen on the socket of wg for %s: %v", name, err)
	}
	file.Close() // the listener has its own
	d.mu.Lock()
	d.uapi = l
	d.mu.Unlock()
	conns := make(chan net.Conn)
	d.done.Go(func() {
		for c := range conns {
			d.dev.IpcHandle(c)
		}
	})
	go func() { // Accept of wireguard's listener ends with the process alone
		defer close(conns)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return nil
}

// Close ends all tunnels. The line stays.
func (d *Device) Close() {
	d.mu.Lock()
	if d.uapi != nil {
		d.uapi.Close()
		d.uapi = nil
	}
	d.mu.Unlock()
	d.face.Close()
	d.dev.Close()
}
