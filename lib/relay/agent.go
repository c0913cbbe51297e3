package relay

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/api"
	"top/lib/envelope"
	"top/lib/home"
	"top/lib/settle"
	"top/lib/top"
)

const (
	ownRelays     = 2 // relays in our mailbox record
	nearest       = 3 // relays of the registry that hold a record besides its own
	prekeyCount   = 64
	fewPrekeys    = 16
	recordLasts   = 90 * 24 * time.Hour
	lookEvery     = 30 * time.Second // our own record, against the chain
	lookUntil     = time.Second      // while there is none
	registryLasts = 10 * time.Second
	recordCached  = time.Minute // of somebody else
	tendEvery     = 250 * time.Millisecond
)

// An agent sends and receives the messages of one device.
type agent struct {
	d     *Daemon
	cfg   Config
	db    *store
	log   *slog.Logger
	now   func() time.Time
	ctx   context.Context
	group *errgroup.Group

	opening  sync.Mutex // held while a channel is opened
	receipts *settle.Receipts

	mu       sync.Mutex
	news     chan struct{} // closed at every change, and made anew
	links    map[top.NodeID]*link
	couriers map[top.Address]*courier
	record   *envelope.Mailbox
	onChain  bool
	known    map[top.Address]found
	registry []api.Node
	asked    time.Time // when the registry was
	seqs     seqs
	msgs     map[uint64]*outMessage
	parcels  map[uint64]*outParcel
	intake   sync.Mutex // one group of envelopes is taken in at a time
	syncing  sync.Mutex // and one becomes durable at a time; taken after intake
	sealing  sync.Mutex // held from reading a conversation to writing it
	files    map[[16]byte]*inFile
}

// seqs are the numbers given last.
type seqs struct {
	Inbox, Request, Sent, Parcel uint64
}

// found is somebody's mailbox record, as it was looked up.
type found struct {
	record envelope.Mailbox
	at     time.Time
}

func newAgent(d *Daemon) (*agent, error) {
	a := &agent{
		d: d, cfg: d.cfg, db: d.db, log: d.log, now: d.now, news: make(chan struct{}),
		links: map[top.NodeID]*link{}, couriers: map[top.Address]*courier{}, known: map[top.Address]found{},
		msgs: map[uint64]*outMessage{}, parcels: map[uint64]*outParcel{}, files: map[[16]byte]*inFile{},
	}
	for _, dir := range []string{"spool", "files", "parts"} {
		if err := os.MkdirAll(a.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	if _, err := load(a.db.db, key('#'), &a.seqs); err != nil {
		return nil, err
	}
	raw, err := get(a.db.db, key('b'))
	if err != nil {
		return nil, err
	}
	if raw != nil {
		a.record = new(envelope.Mailbox)
		if err := a.record.Decode(raw); err != nil || a.record.Account != d.address {
			a.record = nil
		}
	}
	if a.receipts, err = settle.OpenReceipts(d.cfg.Home.Path("receipts", "relay-sent.ndjson")); err != nil {
		return nil, err
	}
	return a, a.restore()
}

func (a *agent) path(parts ...string) string {
	return filepath.Join(append([]string{a.db.dir}, parts...)...)
}

// run sends and receives until ctx ends.
func (a *agent) run(ctx context.Context) error {
	a.group, a.ctx = errgroup.WithContext(ctx)
	defer a.receipts.Close()
	if err := a.relink(); err != nil {
		return err
	}
	a.resume()
	a.group.Go(func() error { return a.keepMailbox(a.ctx) })
	a.group.Go(func() error { return a.tend(a.ctx) })
	return a.group.Wait()
}

// relink goes on with the channels that are on disk.
func (a *agent) relink() error {
	nodes := map[top.NodeID]bool{}
	err := each(a.db.db, key('L'), key('L'), func(k, _ []byte) (bool, error) {
		nodes[top.NodeID(k[1:33])] = true
		return true, nil
	})
	if err != nil {
		return err
	}
	for node := range nodes {
		l := a.link(node, api.Node{})
		if err := a.loadLanes(l); err != nil {
			return err
		}
		a.restorePlaces(l)
	}
	return nil
}

// change is closed at the next change of anything.
func (a *agent) change() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.news
}

func (a *agent) changed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.news)
	a.news = make(chan struct{})
}

// tend sets aside ahead of need, settles, expires and retries, until ctx ends.
func (a *agent) tend(ctx context.Context) error {
	for n := 0; pause(ctx, tendEvery); n++ {
		a.mu.Lock()
		links := make([]*link, 0, len(a.links))
		for _, l := range a.links {
			links = append(links, l)
		}
		a.mu.Unlock()
		for _, l := range links {
			l.mu.Lock()
			lanes := slices.Clone(l.lanes)
			l.mu.Unlock()
			for _, x := range lanes {
				x.tend(ctx, n%8 == 0)
			}
		}
		a.review()
	}
	return nil
}

// dial opens a stream to a relay at the first of its addresses that answers.
func (d *Daemon) dial(ctx context.Context, addrs []string) (conn net.Conn, err error) {
	err = top.Errorf(top.Offline, "the relay registered no address")
	for _, addr := range addrs {
		if conn, err = d.host.Dial(ctx, Protocol, addr); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// nodes is the registry's relays, a few seconds old at most.
func (a *agent) nodes(ctx context.Context) ([]api.Node, error) {
	a.mu.Lock()
	all, at := a.registry, a.asked
	a.mu.Unlock()
	if len(all) > 0 && a.now().Sub(at) < registryLasts {
		return all, nil
	}
	all = nil
	err := a.cfg.Chain.Nodes(ctx, Service, func(n api.Node) error {
		if _, ok := wireOffer(n); ok && n.Exists && len(n.Addrs) > 0 {
			all = append(all, n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.registry, a.asked = all, a.now()
	a.mu.Unlock()
	return all, nil
}

// request asks a relay, which may be this daemon itself.
func (a *agent) request(ctx context.Context, n api.Node, wait time.Duration, kind byte, body []byte) ([]byte, error) {
	if n.Node == a.cfg.NodeKey.Public() && a.d.provider != nil {
		switch kind {
		case fMailbox:
			return nil, a.d.provider.publish(ctx, body)
		case fLookup:
			return a.d.provider.lookup(body)
		}
		return a.d.provider.prekey(body)
	}
	l := a.link(n.Node, n)
	if err := l.await(ctx, wait); err != nil {
		return nil, err
	}
	return l.ask(ctx, kind, body)
}

// allows says what is done with somebody's messages: "allowed", "blocked" or ""
// for a stranger's. Who is a contact, or was written to, is no stranger.
func (a *agent) allows(who top.Address) (string, error) {
	raw, err := get(a.db.db, key('a', who[:]))
	if err != nil || raw != nil {
		return string(raw), err
	}
	if who == a.d.address {
		return allowed, nil
	}
	contacts, err := home.Contacts(a.cfg.Home)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, c := range contacts {
		if c.Address == who {
			return allowed, nil
		}
	}
	return "", nil
}

const (
	allowed = "allowed"
	blocked = "blocked"
)
