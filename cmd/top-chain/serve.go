package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sync/errgroup"

	"top/lib/chain"
	"top/lib/daemon"
	"top/lib/explorer"
	"top/lib/home"
	"top/lib/tool"
	"top/lib/top"
)

func serveVerb() tool.Verb {
	return tool.Verb{
		Name: "serve", Summary: "run the node that this home holds", Serve: true,
		Doc: `A validator, a full node or a light client, as "top-chain init" made it. Runs in
the foreground until SIGINT or SIGTERM. After kill -9 it comes back to the state
that it had.`,
		Flags: []tool.Flag{
			{Name: "sock", Help: "where to answer (default HOME/run/chain.sock)"},
			{Name: "light", Kind: tool.Bool, Help: "verify headers and proofs, keep no state"},
			{Name: "listen", Help: "HOST:PORT for validators and full nodes"},
			{Name: "external", Help: "HOST:PORT that others dial, when it differs"},
			{Name: "mesh", Help: "multiaddress where light clients are answered; none answers none"},
			{Name: "peer", Kind: tool.Strings, Help: "whom to dial; may repeat"},
			{Name: "trust", Help: "light client, or with --sync: start from this header, HEIGHT:HASH"},
			{Name: "sync", Kind: tool.Strings, Help: "join by a snapshot, checked by the headers of this full node (a multiaddress, as top-chain status shows); may repeat"},
			{Name: "discover", Kind: tool.Bool, Help: "ask peers for more peers"},
			{Name: "empty-blocks", Kind: tool.Duration, Default: "500ms", Help: "between blocks while nothing happens; sets how old a head may look"},
			{Name: "snapshot-every", Kind: tool.Int, Default: "2000", Help: "blocks between snapshots of the state"},
			{Name: "keep", Kind: tool.Int, Default: "0", Help: "newest blocks whose transactions are kept, 100 at least; of older ones headers, outcomes and histories stay, with their proofs; 0 keeps all"},
			{Name: "http", Help: "HOST:PORT of a page for a browser on this machine, such as 127.0.0.1:8080; none shows none"},
			{Name: "min-free", Kind: tool.Int, Default: "64", Help: "MiB of disk below which the node stops"},
		},
		Examples: []string{"top-chain serve", "top-chain serve --light", "TOP_HOME=/srv/top top-chain serve --listen 0.0.0.0:26656"},
		Run:      serve,
	}
}

func serve(ctx context.Context, c *tool.Call) error {
	dir, err := daemon.Home(c)
	if err != nil {
		return err
	}
	join, err := chain.LoadJoin(dir)
	if err != nil {
		return err
	}
	for name, v := range map[string]*string{"listen": &join.Listen, "mesh": &join.Mesh, "trust": &join.Trust} {
		if c.Set(name) {
			*v = c.String(name)
		}
	}
	if c.Set("peer") {
		join.Peers = c.Strings("peer")
	}
	if c.Int("min-free") < 0 || c.Int("snapshot-every") < 1 || c.Duration("empty-blocks") < 10*time.Millisecond {
		return top.Errorf(top.Usage, "--min-free wants a count of MiB, --snapshot-every of blocks, --empty-blocks 10ms or more")
	}
	if k := c.Int("keep"); k != 0 && k < 100 {
		return top.Errorf(top.Usage, "--keep %d: want 100 blocks at least, or 0 for all", k)
	}
	if join.Light || c.Bool("light") {
		return serveLight(ctx, c, dir, join)
	}
	if join.Mesh == "none" {
		join.Mesh = ""
	}
	n, err := chain.New(chain.Config{
		Home: dir, Sock: c.String("sock"), Listen: join.Listen, External: c.String("external"), Peers: join.Peers,
		Discover: c.Bool("discover"), EmptyBlocks: c.Duration("empty-blocks"), MinFree: uint64(c.Int("min-free")) << 20,
		Snapshots: top.Height(c.Int("snapshot-every")), Keep: top.Height(c.Int("keep")), Sync: c.Strings("sync"), Trust: join.Trust, Mesh: join.Mesh, Ready: c.Ready, Log: c.Log,
	})
	if err != nil {
		return err
	}
	go roomForGarbage(ctx)
	return withPage(ctx, c, n.Run)
}

// withPage runs a node and, where it was asked for, the page that shows its chain.
func withPage(ctx context.Context, c *tool.Call, run func(context.Context) error) error {
	if c.String("http") == "" {
		return run(ctx)
	}
	node, err := dial(c)
	if err != nil {
		return err
	}
	page, err := explorer.New(explorer.Config{Listen: c.String("http"), Chain: node, Log: c.Log})
	if err != nil {
		return err
	}
	c.Log.Info("page", "addr", "http://"+page.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return page.Run(ctx) })
	g.Go(func() error { return run(ctx) })
	return g.Wait()
}

// A node may grow by so much before garbage is collected, less an eighth of what it
// holds, and by four times that at most: to collect more often is a tenth of a saturated
// validator's time, and a node that holds much has less to spare. A fifth of what it holds
// is always granted: a fixed limit would have a large state collected without end.
const (
	garbageRoom = 192 << 20 // bytes
	garbageMost = 400       // per cent, GOGC of package runtime
	garbageLess = 20
	garbageLook = 2 * time.Second
)

// roomForGarbage keeps GOGC at what garbageRoom comes to.
func roomForGarbage(ctx context.Context) {
	tick := time.NewTicker(garbageLook)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	last := 0
	for {
		metrics.Read(live)
		percent := garbageMost
		if held := int64(live[0].Value.Uint64()); held > 0 {
			percent = int(max(garbageLess, min(garbageMost, (garbageRoom-held/8)*100/held)))
		}
		if percent != last {
			debug.SetGCPercent(percent)
			last = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func serveLight(ctx context.Context, c *tool.Call, dir home.Dir, join chain.Join) error {
	l, err := chain.NewLight(chain.LightConfig{
		Home: dir, Sock: c.String("sock"), Peers: join.Peers, Trust: join.Trust, Ready: c.Ready, Log: c.Log,
	})
	if err != nil {
		return err
	}
	return withPage(ctx, c, l.Run)
}
