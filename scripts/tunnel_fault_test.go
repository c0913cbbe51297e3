package scripts

import (
	"strings"
	"testing"
)

// While the chain stands still, or the agent is away, a tunnel goes on up to what is
// promised, then its status says why it stands and what to do; when they are back it goes
// on by itself.
func TestFaultChainHaltedUnderATunnel(t *testing.T) {
	n := start(t)
	url, body := n.page("halted", 1_000_000)
	n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit1", "--cap", "0.0001") // 100 units: six pages
	n.fetched(url, body)
	stands := func(what, remedy string, least, most int) {
		t.Helper()
		pages := 0
		for ; pages <= most; pages++ {
			if out, err := n.try("alice", "top-vpn", "get", "--insecure", "--timeout", "6s", url); err != nil || out != string(body) {
				break
			}
		}
		if pages < least || pages > most {
			t.Errorf("%s: %d pages came, between %d and %d may", what, pages, least, most)
		}
		n.eventually("the status says why", func() bool {
			s, err := n.vpn("alice").Status(t.Context())
			return err == nil && strings.Contains(s.Problem, remedy)
		})
		s, err := n.vpn("alice").Status(t.Context())
		t.Logf("%s, %d pages: %q, %v", what, pages, s.Problem, err)
	}
	n.kill(n.home("val2").Path("chain", "lock"))
	n.kill(n.home("val3").Path("chain", "lock"))
	stands("the chain is halted", "channel", 4, 6)
	n.serve("val2", "top-chain", "serve")
	n.serve("val3", "top-chain", "serve")
	n.fetched(url, body)
	n.run("alice", "top-vpn", "down")

	n.serve("alice", "top-vpn", "up", "--socks", "127.0.0.1:0", "--via", "exit1", "--cap", "0.01")
	n.fetched(url, body)
	n.kill(n.home("alice").Path("wallet", "lock"))
	stands("the agent is away", "top-wallet agent", 1, 80) // an anchor of 1,023 units is 67 pages
	n.agent("alice")
	n.fetched(url, body)
	n.eventually("the status is clear", func() bool {
		s, err := n.vpn("alice").Status(t.Context())
		return err == nil && s.Problem == ""
	})
}
