package netcfg

import (
	"testing"
)

func TestNC1_NothingLeaksAtAnyStep(t *testing.T) {
	w := newWorld(t)
	w.tun = w.client.openTUN(tunName)
	w.open("before")
	tn := tunnel()
	w.client.in(func() error {
		link, err := linkOf(tunName)
		if err != nil {
			return err
		}
		if err := tn.check(); err != nil {
			return err
		}
		for i, step := range tn.upSteps(link) {
			if err := step(); err != nil {
				return err
			}
			_ = i
		}
		return nil
	})
	w.closed("up")
	w.client.in(func() error { return Down(tunName) })
	w.open("after")
}
