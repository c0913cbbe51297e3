package scripts

import (
	"strings"
	"testing"

	"top/lib/top"
)

// While payments are offered without a pause one validator after the other is killed
// with -9, stays away for a while and comes back, and people pay and write as always:
// nothing that was taken is lost, every nano is where the verdicts say, and all
// validators have one root in the end.
func TestFaultUnderLoad(t *testing.T) {
	n := begin(t, "") // it brings its own
	on := []string{"bench", "--on", string(n.home("val1")), "--payers", "16", "--offer", "300", "--seconds", "20", "--json"}
	_, err := n.try("val1", "top-chain", on...)
	if err == nil {
		t.Fatal("payments without money")
	}
	_, pay, ok := strings.Cut(err.Error(), "pay it: top-wallet ")
	pay, _, _ = strings.Cut(pay, ")")
	if !ok {
		t.Fatal(err)
	}
	n.run("alice", "top-wallet", strings.Fields(pay)...)
	type ended struct {
		out string
		err error
	}
	done := make(chan ended, 1)
	go func() {
		out, err := n.try("val1", "top-chain", on...)
		done <- ended{out, err}
	}()
	n.eventually("payments are on their way", func() bool {
		if len(done) > 0 {
			r := <-done
			t.Fatal(r.err, r.out)
		}
		s, err := n.chain("val1").Status(t.Context())
		return err == nil && s.Accounts > 20 && s.Pending > 0
	})
	for _, who := range []string{"val3", "val2", "val0"} {
		n.kill(n.home(who).Path("chain", "lock"))
		n.run("alice", "top-wallet", "pay", "bob", "0.5")
		n.run("alice", "top-relay", "send", "--to", "bob", "--text", "while "+who+" is away", "--wait", "delivered", "--timeout", "50s")
		n.serve(who, "top-chain", "serve")
	}
	r := <-done
	if r.err != nil || !strings.Contains(r.out, `"lost":"0"`) || !strings.Contains(r.out, `"conserved":true`) {
		t.Errorf("%v %s", r.err, r.out)
	}
	t.Log(r.out)
	roots := map[top.Height]map[top.ID]bool{}
	seen := map[top.Height]int{}
	n.eventually("all have one root", func() bool {
		for _, who := range []string{"val0", "val1", "val2", "val3"} {
			s, err := n.chain(who).Status(t.Context())
			if err != nil {
				return false
			}
			if roots[s.Height] == nil {
				roots[s.Height] = map[top.ID]bool{}
			}
			if !roots[s.Height][s.Root] {
				roots[s.Height][s.Root] = true
				seen[s.Height] = 0
			}
			if seen[s.Height]++; len(roots[s.Height]) > 1 {
				t.Fatalf("two roots at block %s", s.Height)
			}
			if seen[s.Height] >= 4 {
				return true
			}
		}
		return false
	})
}
