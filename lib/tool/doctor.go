package tool

import (
	"context"

	"top/lib/top"
)

// State is how a check came out.
type State string

// The states of a check.
const (
	OK   State = "ok"
	Warn State = "warn"
	Bad  State = "bad"
)

// A Check is one thing that doctor looked at, with the command that mends it.
type Check struct {
	Type   string `json:"type"` // "check"
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func doctorVerb(app App) Verb {
	return Verb{
		Name: "doctor", Summary: "look at everything that " + app.Name + " needs, and say what mends it",
		Flags:    app.DoctorFlags,
		Doc:      "Exit 0 when nothing is bad. Each finding names the command that mends it.",
		Records:  []string{"check"},
		Examples: []string{app.Name + " doctor", app.Name + " doctor --json"},
		Run: func(ctx context.Context, c *Call) error {
			checks, err := app.Doctor(ctx, c)
			if err != nil {
				return err
			}
			bad := 0
			for _, k := range checks {
				k.Type = "check"
				text := string(k.State) + "\t" + k.Name + "\t" + k.Detail
				if k.Fix != "" {
					text += "\n\t\tmend it: " + k.Fix
				}
				if err := c.Emit(k, "%s", text); err != nil {
					return err
				}
				if k.State == Bad {
					bad++
				}
			}
			if bad > 0 {
				return top.Errorf(top.Failed, "%d of %d checks are bad", bad, len(checks))
			}
			return nil
		},
	}
}
