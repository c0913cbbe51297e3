package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"top/lib/api"
	"top/lib/chain"
	"top/lib/home"
	"top/lib/ledger"
	"top/lib/sock"
	"top/lib/tool"
	"top/lib/top"
)

func localnetVerb() tool.Verb {
	return tool.Verb{
		Name: "localnet", Summary: "run a whole network of validators on this machine", Serve: true,
		Doc: `Makes homes DIR/val0, DIR/val1, … with one genesis, runs a node in each as a
process of its own, and stays up until it is interrupted. Run again on the same
DIR it goes on where the network stopped. Each --light HOME becomes a light
client of the network. Deadlines are 5 s and 20 blocks, an epoch is 100 blocks. With
--stake the validators are elected; without, they are these for ever.

A node that was killed comes back with: top-chain serve --home DIR/val0`,
		Args: []tool.Arg{{Name: "DIR", Help: "folder for the homes"}},
		Flags: append(stakeFlags(), []tool.Flag{
			{Name: "validators", Kind: tool.Int, Default: "4", Help: "how many (a network of 4 goes on with one down)"},
			{Name: "fund", Kind: tool.Strings, Help: "ADDRESS=AMOUNT of TOP that exist from the start; may repeat"},
			{Name: "light", Kind: tool.Strings, Help: "make this home a light client of the network and run it; may repeat"},
		}...),
		Records:  []string{"ready"},
		Examples: []string{"top-chain localnet ./net --fund alice=1000", "top-chain localnet ./net --validators 1 --json"},
		Run:      localnet,
	}
}

// A readyRecord says that every node of a localnet answers.
type readyRecord struct {
	Type       string      `json:"type"` // "ready"
	Chain      top.ChainID `json:"chain"`
	Dir        string      `json:"dir"`
	Validators []string    `json:"validators"` // homes
	Light      []string    `json:"light"`
	Height     top.Height  `json:"height"`
}

// The deadlines of a localnet (economy.md, "Deadlines").
const (
	localDeadlineSec    = 5
	localDeadlineBlocks = 20
	localEpochBlocks    = 100
	localVoteEpochs     = 2
	localJailSec        = 10
	maxValidators       = 64
	localStart          = 60 * time.Second // until every node must answer
	localStop           = 5 * time.Second  // that nodes have to end
)

func localnet(ctx context.Context, c *tool.Call) error {
	net, err := openLocal(c)
	if err != nil {
		return err
	}
	release, err := home.Lock(filepath.Join(net.dir, "localnet.lock"))
	if err != nil {
		return err
	}
	defer release()
	if err := net.prepare(beginningOf(c)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	group := &children{self: self, say: c.Info, ended: make(chan error, 1)}
	defer group.stop()
	// The light clients ask the validators, and so come after them.
	for _, homes := range [][]home.Dir{net.vals, net.lights} {
		for _, dir := range homes {
			if err := group.start(dir); err != nil {
				return err
			}
		}
		if err := net.await(ctx, homes, group.ended); err != nil {
			return err
		}
	}
	r := readyRecord{"ready", net.chain, net.dir, texts(net.vals), texts(net.lights), net.height}
	if err := c.Emit(r, "ready: chain %s, %d validators in %s", r.Chain, len(net.vals), r.Dir); err != nil {
		return err
	}
	if err := c.Ready(); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// A local is a network of homes in one folder.
type local struct {
	dir    string
	vals   []home.Dir
	lights []home.Dir
	chain  top.ChainID
	height top.Height
}

func openLocal(c *tool.Call) (*local, error) {
	dir, err := filepath.Abs(c.Arg(0))
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", c.Arg(0), err)
	}
	n := c.Int("validators")
	if n < 1 || n > maxValidators {
		return nil, top.Errorf(top.Usage, "--validators %d: want 1 to %d", n, maxValidators)
	}
	net := &local{dir: dir}
	for i := range n {
		net.vals = append(net.vals, home.Dir(filepath.Join(dir, fmt.Sprintf("val%d", i))))
	}
	for _, l := range c.Strings("light") {
		l, err := filepath.Abs(l)
		if err != nil {
			return nil, fmt.Errorf("folder %s: %w", l, err)
		}
		net.lights = append(net.lights, home.Dir(l))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	for _, d := range append(net.vals, net.lights...) {
		if _, err := d.Sock("chain"); err != nil {
			return nil, err
		}
	}
	return net, nil
}

// prepare makes every home that is not made yet.
func (n *local) prepare(b beginning) error {
	raw, err := chain.LoadGenesis(n.vals[0])
	if errors.Is(err, top.ErrNotFound) {
		raw, err = n.create(b)
	} else if len(b.funds)+len(b.stakes)+len(b.rules) > 0 && err == nil {
		return top.Errorf(top.Denied, "%s holds a network already and its money exists (leave out --fund, --stake and --rule, or choose another DIR)", n.dir)
	}
	if err != nil {
		return err
	}
	g, err := chain.ParseGenesis(raw)
	if err != nil {
		return err
	}
	if len(g.Doc.Validators) != len(n.vals) {
		return top.Errorf(top.Denied, "%s holds a network of %d validators (say --validators %[2]d, or choose another DIR)", n.dir, len(g.Doc.Validators))
	}
	n.chain = g.Chain
	return n.joinLights(raw)
}

// create draws a chain and makes the validators' homes.
func (n *local) create(b beginning) ([]byte, error) {
	raw, err := newGenesis(b, n.vals, func(p *ledger.Params) {
		p.DeadlineSec, p.DeadlineBlocks = localDeadlineSec, localDeadlineBlocks
		p.Stake.EpochBlocks, p.Stake.VoteEpochs, p.Stake.JailSeconds = localEpochBlocks, localVoteEpochs, localJailSec
	})
	if err != nil {
		return nil, err
	}
	port, err := chain.DrawPorts(2 * len(n.vals))
	if err != nil {
		return nil, err
	}
	joins := make([]chain.Join, len(n.vals))
	peers := make([]string, len(n.vals))
	for i, dir := range n.vals {
		id, err := chain.PeerID(dir, rand.Reader)
		if err != nil {
			return nil, err
		}
		joins[i] = chain.Join{Listen: fmt.Sprintf("127.0.0.1:%d", port+2*i), Mesh: fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port+2*i+1)}
		peers[i] = id + "@" + joins[i].Listen
	}
	// val0 comes last: its genesis says that all the others are made.
	for i := len(n.vals) - 1; i >= 0; i-- {
		for j := range peers {
			if j != i {
				joins[i].Peers = append(joins[i].Peers, peers[j])
			}
		}
		if err := chain.Setup(n.vals[i], raw, joins[i], rand.Reader); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// joinLights makes the light clients' homes; each asks two validators.
func (n *local) joinLights(raw []byte) error {
	var addrs []string
	for _, dir := range n.vals {
		j, err := chain.LoadJoin(dir)
		if err != nil {
			return err
		}
		id, err := chain.MeshID(dir, rand.Reader)
		if err != nil {
			return err
		}
		addrs = append(addrs, j.Mesh+"/p2p/"+id)
	}
	for i, dir := range n.lights {
		j := chain.Join{Light: true, Peers: []string{addrs[i%len(addrs)]}}
		if len(addrs) > 1 {
			j.Peers = append(j.Peers, addrs[(i+1)%len(addrs)])
		}
		if err := chain.Setup(dir, raw, j, rand.Reader); err != nil {
			return err
		}
	}
	return nil
}

// await returns once every home's node answers and has a block.
func (n *local) await(ctx context.Context, homes []home.Dir, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, localStart)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, dir := range homes {
		path, err := dir.Sock("chain")
		if err != nil {
			return err
		}
		node := api.NewChain(sock.Dial(path, "top-chain serve --home "+string(dir)))
		for {
			s, err := node.Status(ctx)
			if err == nil && s.Height > 0 {
				n.height = s.Height
				break
			}
			select {
			case err := <-ended:
				return err
			case <-ctx.Done():
				return top.Errorf(top.Timeout, "%s did not answer within %s (see %s)", dir, localStart, logOf(dir))
			case <-tick.C:
			}
		}
	}
	return nil
}

func logOf(dir home.Dir) string { return dir.Path("chain", "serve.log") }

func texts(dirs []home.Dir) []string {
	all := []string{}
	for _, d := range dirs {
		all = append(all, string(d))
	}
	return all
}

// children are the nodes' processes.
type children struct {
	self  string
	say   func(string, ...any)
	ended chan error // the first to end by itself
	wg    sync.WaitGroup

	mu       sync.Mutex
	running  []*os.Process
	stopping bool
}

// start runs the node of a home. It is ended with this process, however this
// process ends.
func (g *children) start(dir home.Dir) error {
	log, err := os.OpenFile(logOf(dir), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	started := make(chan error)
	g.wg.Go(func() {
		// The death signal is tied to the thread that forks.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		cmd := exec.Command(g.self, "serve", "--home", string(dir))
		cmd.Stderr = log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
		err := cmd.Start()
		if err == nil {
			g.mu.Lock()
			g.running = append(g.running, cmd.Process)
			g.mu.Unlock()
		}
		started <- err
		if err == nil {
			g.report(dir, cmd.Wait())
		}
	})
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", dir, err)
	}
	return nil
}

// report says that a node ended, unless all are being stopped.
func (g *children) report(dir home.Dir, err error) {
	g.mu.Lock()
	stopping := g.stopping
	g.mu.Unlock()
	if stopping {
		return
	}
	e := top.Errorf(top.Failed, "the node of %s ended, %v: %s (see %s; start it again: top-chain serve --home %[1]s)", dir, err, lastLine(logOf(dir)), logOf(dir))
	g.say("%v", e)
	select {
	case g.ended <- e:
	default:
	}
}

// lastLine is the end of a node's log: why it ended.
func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "it left no log"
	}
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// stop ends every node and waits for it.
func (g *children) stop() {
	g.mu.Lock()
	g.stopping = true
	running := g.running
	g.mu.Unlock()
	for _, p := range running {
		p.Signal(syscall.SIGTERM) // one that ended already is no error here
	}
	kill := time.AfterFunc(localStop, func() {
		for _, p := range running {
			p.Kill()
		}
	})
	defer kill.Stop()
	g.wg.Wait()
}
