package tool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"top/lib/top"
)

// parsed is a command line taken apart: flags wherever they stood, operands in
// their order.
type parsed struct {
	verb     *Verb
	path     []string        // "budget", "set"
	flags    []string        // each "--name=value"
	given    map[string]bool // names in flags
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

// parse takes a command line apart (D1) and adds what the environment says of
// flags that are not on it. The error is of kind Usage; p is what was understood
// before it.
func parse(app App, args []string, getenv func(string) string) (p *parsed, err error) {
	p = &parsed{given: map[string]bool{}, json: wantsJSON(app, args, getenv)}
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
		case p.verb == nil || p.verb.Run == nil:
			v := find(verbs, a)
			if v == nil && a == "help" {
				p.help = true
				continue
			}
			if v == nil {
				return p, p.unknown(app, verbs, a)
			}
			p.verb, verbs = v, v.Verbs
			p.path = append(p.path, v.Name)
		default:
			p.operands = append(p.operands, a)
		}
	}
	if p.help || p.version || p.describe {
		return p, nil
	}
	if err := p.complete(app); err != nil {
		return p, err
	}
	return p, p.environment(app, getenv)
}

// wantsJSON says whether errors are to be records, before it is known whether
// the command line is good.
func wantsJSON(app App, args []string, getenv func(string) string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	on, _ := strconv.ParseBool(getenv(envName(app.Name, "json")))
	for _, a := range args {
		if a == "--json" {
			on = true
		} else if v, ok := strings.CutPrefix(a, "--json="); ok {
			on, _ = strconv.ParseBool(v)
		}
	}
	return on
}

// isNumber lets a negative number be an operand, so that the verb can refuse it
// by name.
func isNumber(a string) bool {
	_, err := strconv.ParseFloat(a, 64)
	return err == nil && strings.ContainsAny(a[1:2], "0123456789.")
}

// environment gives flags that are not on the command line the values of their
// variables.
func (p *parsed) environment(app App, getenv func(string) string) error {
	for _, f := range allFlags(p.verb) {
		name := envName(app.Name, f.Name)
		v := getenv(name)
		if p.given[f.Name] || v == "" {
			continue
		}
		if _, err := f.value(v); err != nil {
			return p.usage(app, "%s in the environment: %v", name, err)
		}
		p.set(f, v)
	}
	return nil
}

func (p *parsed) set(f Flag, value string) {
	p.given[f.Name] = true
	p.flags = append(p.flags, "--"+f.Name+"="+value)
	if f.Name == "json" {
		p.json, _ = strconv.ParseBool(value)
	}
}

func find(verbs []Verb, name string) *Verb {
	for i := range verbs {
		if verbs[i].Name == name {
			return &verbs[i]
		}
	}
	return nil
}

// flag reads one flag, or several short ones in one word, and says how many
// further arguments it used.
func (p *parsed) flag(app App, a string, rest []string) (used int, err error) {
	name, value, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
	long := strings.HasPrefix(a, "--")
	switch {
	case long && name == "help" || a == "-h":
		p.help = true
		return 0, nil
	case long && name == "version":
		p.version = true
		return 0, nil
	case long && name == "describe":
		p.describe = true
		return 0, nil
	}
	flags := allFlags(p.verb)
	if !long && len(name) > 1 {
		return p.shorts(app, a, rest)
	}
	at := slices.IndexFunc(flags, func(f Flag) bool { return long && f.Name == name || !long && f.Short == name })
	if at < 0 || name == "" {
		return 0, p.noFlag(app, a, flags)
	}
	f := flags[at]
	switch {
	case inline:
	case f.Kind == Bool:
		value = "true"
	case len(rest) == 0:
		return 0, p.usage(app, "%s wants a value (%s)", a, f.Kind)
	default:
		value, used = rest[0], 1
	}
	if _, err := f.value(value); err != nil {
		return 0, p.usage(app, "--%s: %v", f.Name, err)
	}
	p.set(f, value)
	return used, nil
}

// shorts reads "-qv" as "-q -v": all but the last of the letters are switches,
// and what follows the letter of a flag with a value is the value, as in
// "-ofile".
func (p *parsed) shorts(app App, a string, rest []string) (used int, err error) {
	flags := allFlags(p.verb)
	for i := 1; i < len(a); i++ {
		at := slices.IndexFunc(flags, func(f Flag) bool { return f.Short == a[i:i+1] })
		switch {
		case a[i] == 'h':
			p.help = true
		case at < 0:
			return 0, p.noFlag(app, a, flags)
		case flags[at].Kind == Bool && (i+1 == len(a) || a[i+1] != '='):
			p.set(flags[at], "true")
		default:
			value := strings.TrimPrefix(a[i+1:], "=")
			if i+1 == len(a) {
				return p.flag(app, "-"+a[i:], rest)
			}
			return p.flag(app, "-"+a[i:i+1]+"="+value, rest)
		}
	}
	return 0, nil
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
	hint := nearest("--"+strings.TrimLeft(name, "-"), names)
	if p.verb == nil {
		return p.usage(app, "%s: no such flag before a command%s", name, hint)
	}
	return p.usage(app, "%s has no flag %s%s", strings.Join(p.path, " "), name, hint)
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
