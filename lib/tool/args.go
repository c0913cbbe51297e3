package tool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"top/lib/top"
)

// parsed is a command line taken apart: flags wherever they stood, operands in
// their order.
type parsed struct {
	verb     *Verb
	path     []string // "budget", "set"
	flags    []string // each "--name=value"
	operands []string
	help     bool
	version  bool
	describe bool
	json     bool
}

// line is the command line for urfave/cli: flags first, then operands behind
// "--", the one order that it reads as the contract means it.
func (p *parsed) line() []string {
	l := append([]string{"run"}, p.flags...)
	return append(append(l, "--"), p.operands...)
}

// parse takes a command line apart (D1). The error is of kind Usage; what was
// understood before it is in p.
func parse(app App, args []string) (p *parsed, err error) {
	p = &parsed{json: slices.Contains(untilDashes(args), "--json")}
	verbs, ended := app.Verbs, false
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case !ended && a == "--":
			ended = true
		case !ended && len(a) > 1 && a[0] == '-' && !isNumber(a):
			used, err := p.flag(app, a, args[i+1:])
			if err != nil {
				return p, err
			}
			i += used
		case p.verb == nil || p.verb.Verbs != nil:
			if a == "help" && p.verb == nil {
				p.help = true
				continue
			}
			v := find(verbs, a)
			if v == nil {
				return p, p.unknown(app, verbs, a)
			}
			p.verb, verbs = v, v.Verbs
			p.path = append(p.path, v.Name)
		default:
			p.operands = append(p.operands, a)
		}
	}
	return p, p.complete(app)
}

func untilDashes(args []string) []string {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i]
	}
	return args
}

// isNumber lets a negative number be an operand, so that the verb can refuse it
// by name.
func isNumber(a string) bool {
	_, err := strconv.ParseFloat(a, 64)
	return err == nil
}

func find(verbs []Verb, name string) *Verb {
	for i := range verbs {
		if verbs[i].Name == name {
			return &verbs[i]
		}
	}
	return nil
}

// flag reads one flag and says how many further arguments it used.
func (p *parsed) flag(app App, a string, rest []string) (used int, err error) {
	name, value, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
	switch name {
	case "help", "h":
		p.help = true
		return 0, nil
	case "version":
		p.version = true
		return 0, nil
	case "describe":
		p.describe = true
		return 0, nil
	}
	flags := p.known(app)
	at := slices.IndexFunc(flags, func(f Flag) bool {
		return f.Name == name && strings.HasPrefix(a, "--") || f.Short == name && !strings.HasPrefix(a, "--")
	})
	if at < 0 {
		return 0, p.noFlag(app, a, flags)
	}
	f := flags[at]
	if f.Kind == Bool {
		if !inline {
			value = "true"
		}
	} else if !inline {
		if len(rest) == 0 {
			return 0, p.usage(app, "%s wants a value (%s)", a, f.Kind)
		}
		value, used = rest[0], 1
	}
	if err := f.check(value); err != nil {
		return 0, p.usage(app, "--%s: %v", f.Name, err)
	}
	p.flags = append(p.flags, "--"+f.Name+"="+value)
	return used, nil
}

// known is the flags that may stand here: before the verb, any flag of any verb
// below would be ambiguous, so only the shared ones.
func (p *parsed) known(App) []Flag { return allFlags(p.verb) }

// check says why a value is not one of the flag's kind.
func (f Flag) check(value string) (err error) {
	switch f.Kind {
	case Bool:
		_, err = strconv.ParseBool(value)
	case Int:
		_, err = strconv.Atoi(value)
	case Duration:
		_, err = time.ParseDuration(value)
	case Amount:
		_, err = top.ParseAmount(value)
		return trimKind(err)
	}
	if err != nil {
		return fmt.Errorf("%q is not a value of kind %s", value, f.Kind)
	}
	return nil
}

// trimKind cuts the sentinel's own word off the end of an error's text.
func trimKind(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", strings.TrimSuffix(err.Error(), ": "+string(top.KindOf(err))))
}

func (p *parsed) usage(app App, format string, args ...any) error {
	return top.Errorf(top.Usage, "%s (see: %s)", fmt.Sprintf(format, args...), helpLine(app, p.path))
}

func helpLine(app App, path []string) string {
	return strings.Join(append(append([]string{app.Name}, path...), "--help"), " ")
}

func (p *parsed) noFlag(app App, a string, flags []Flag) error {
	names := make([]string, len(flags))
	for i, f := range flags {
		names[i] = "--" + f.Name
	}
	name, _, _ := strings.Cut(a, "=")
	if p.verb == nil {
		return p.usage(app, "%s: no such flag before a verb%s", name, nearest(name, names))
	}
	return p.usage(app, "%s has no flag %s%s", strings.Join(p.path, " "), name, nearest(name, names))
}

func (p *parsed) unknown(app App, verbs []Verb, a string) error {
	var names []string
	for _, v := range verbs {
		if !v.Hidden {
			names = append(names, v.Name)
		}
	}
	what := strings.Join(append(append([]string{app.Name}, p.path...), a), " ")
	return p.usage(app, "no such command: %s%s", what, nearest(a, names))
}

// complete checks that the operands fit the verb.
func (p *parsed) complete(app App) error {
	if p.help || p.version || p.describe {
		return nil
	}
	if p.verb == nil || p.verb.Run == nil {
		return p.usage(app, "want a command")
	}
	least, most := 0, len(p.verb.Args)
	for _, a := range p.verb.Args {
		if !a.Optional {
			least++
		}
		if a.Many {
			most = int(^uint(0) >> 1)
		}
	}
	if n := len(p.operands); n < least {
		return p.usage(app, "%s wants %s", strings.Join(p.path, " "), p.verb.Args[n].Name)
	} else if n > most {
		return p.usage(app, "%s: one operand too many: %q", strings.Join(p.path, " "), p.operands[most])
	}
	return nil
}

// nearest suggests the name that is least far from what was typed.
func nearest(typed string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if d := editDistance(typed, n); d < dist {
			best, dist = n, d
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		last := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			last, row[j] = row[j], min(row[j]+1, row[j-1]+1, last+cost)
		}
	}
	return row[len(b)]
}
