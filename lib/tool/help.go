package tool

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"top/lib/pipe"
	"top/lib/top"
)

// help is the manual page of a tool, or of one verb.
func help(app App, path []string, v *Verb) string {
	var b strings.Builder
	if v == nil {
		fmt.Fprintf(&b, "%s — %s\n\n", app.Name, app.Summary)
		fmt.Fprintf(&b, "Usage: %s COMMAND [flags] [operands]\n\n", app.Name)
		paragraph(&b, app.Doc)
		verbList(&b, app.Verbs)
		flagList(&b, app, "Flags of every command", shared())
		fmt.Fprintf(&b, "More: %s COMMAND --help; %s --describe prints all of this as JSON.\n", app.Name, app.Name)
		return b.String()
	}
	name := strings.Join(append([]string{app.Name}, path...), " ")
	fmt.Fprintf(&b, "%s — %s\n\n", name, v.Summary)
	if v.Run == nil {
		fmt.Fprintf(&b, "Usage: %s COMMAND [flags] [operands]\n\n", name)
	} else {
		fmt.Fprintf(&b, "Usage: %s [flags]%s\n\n", name, argLine(v.Args))
	}
	paragraph(&b, v.Doc)
	verbList(&b, v.Verbs)
	if len(v.Args) > 0 {
		b.WriteString("Operands:\n")
		for _, a := range v.Args {
			fmt.Fprintf(&b, "  %-22s %s\n", a.Name, a.Help)
		}
		b.WriteString("\n")
	}
	if own := allFlags(v)[len(shared()):]; len(own) > 0 {
		flagList(&b, app, "Flags", own)
	}
	flagList(&b, app, "Flags of every command", shared())
	if len(v.Examples) > 0 {
		b.WriteString("Examples:\n")
		for _, e := range v.Examples {
			fmt.Fprintf(&b, "  %s\n", e)
		}
		b.WriteString("\n")
	}
	if len(v.Records) > 0 {
		fmt.Fprintf(&b, "Records under --json: %s\n", strings.Join(v.Records, ", "))
	}
	return b.String()
}

func paragraph(b *strings.Builder, s string) {
	if s = strings.TrimSpace(s); s != "" {
		fmt.Fprintf(b, "%s\n\n", s)
	}
}

func argLine(args []Arg) string {
	var b strings.Builder
	for _, a := range args {
		s := a.Name
		if a.Many {
			s += "..."
		}
		if a.Optional {
			s = "[" + s + "]"
		}
		b.WriteString(" " + s)
	}
	return b.String()
}

func verbList(b *strings.Builder, verbs []Verb) {
	if len(verbs) == 0 {
		return
	}
	b.WriteString("Commands:\n")
	for _, v := range verbs {
		if !v.Hidden {
			fmt.Fprintf(b, "  %-14s %s\n", v.Name, v.Summary)
		}
	}
	b.WriteString("\n")
}

func flagList(b *strings.Builder, app App, title string, flags []Flag) {
	fmt.Fprintf(b, "%s:\n", title)
	for _, f := range flags {
		name := "--" + f.Name
		if f.Kind != Bool {
			name += " " + strings.ToUpper(f.Kind.String())
		}
		if f.Short != "" {
			name = "-" + f.Short + ", " + name
		}
		text := f.Help
		if f.Default != "" {
			text += " (default " + f.Default + ")"
		}
		fmt.Fprintf(b, "  %-22s %s [$%s]\n", name, text, envName(app.Name, f.Name))
	}
	b.WriteString("\n")
}

// A Description is what --describe prints: all that a completion, a reference
// page or another program needs to know of a tool.
type Description struct {
	Type     string       `json:"type"` // "description"
	Name     string       `json:"name"`
	Summary  string       `json:"summary"`
	Doc      string       `json:"doc,omitempty"`
	Version  string       `json:"version"`
	Contract int          `json:"contract"`
	Verbs    []VerbRecord `json:"verbs"`
	Flags    []FlagRecord `json:"flags"` // of every verb
	Exits    []ExitRecord `json:"exits"`
}

// A VerbRecord describes a verb.
type VerbRecord struct {
	Name     string       `json:"name"` // with its parents: "budget set"
	Summary  string       `json:"summary"`
	Doc      string       `json:"doc,omitempty"`
	Serve    bool         `json:"serve,omitempty"`
	Binary   bool         `json:"binary,omitempty"` // raw bytes on stdout
	Args     []ArgRecord  `json:"args,omitempty"`
	Flags    []FlagRecord `json:"flags,omitempty"`
	Records  []string     `json:"records,omitempty"`
	Examples []string     `json:"examples,omitempty"`
}

// An ArgRecord describes an operand.
type ArgRecord struct {
	Name     string `json:"name"`
	Help     string `json:"help"`
	Optional bool   `json:"optional,omitempty"`
	Many     bool   `json:"many,omitempty"`
}

// A FlagRecord describes a flag.
type FlagRecord struct {
	Name    string `json:"name"`
	Short   string `json:"short,omitempty"`
	Kind    string `json:"kind"`
	Default string `json:"default,omitempty"`
	Env     string `json:"env"`
	Help    string `json:"help"`
}

// An ExitRecord describes an exit code.
type ExitRecord struct {
	Exit    int      `json:"exit"`
	Kind    top.Kind `json:"kind,omitempty"`
	Meaning string   `json:"meaning"`
	Retry   bool     `json:"retry"` // the same call may go through later
}

// exits says what each exit code means (docs/contract.md, "Kinds and exit codes").
func exits() []ExitRecord {
	said := map[top.Kind]string{
		top.Failed:   "failed, or the answer is no",
		top.Usage:    "the command line is malformed",
		top.Invalid:  "the input is malformed",
		top.NotFound: "no such thing",
		top.Denied:   "signature, owner or balance says no",
		top.Offline:  "a daemon or peer does not answer",
		top.Busy:     "someone holds it, it changed meanwhile, or a queue is full",
		top.Timeout:  "--timeout ran out",
	}
	retry := map[top.Kind]bool{top.Offline: true, top.Busy: true, top.Timeout: true}
	all := []ExitRecord{{0, "", "done, or the answer is yes", false}}
	for _, k := range top.Kinds() {
		all = append(all, ExitRecord{k.Exit(), k, said[k], retry[k]})
	}
	return append(all, ExitRecord{130, "", "interrupted", false}, ExitRecord{141, "", "the reader of stdout went away", false}, ExitRecord{143, "", "terminated", false})
}

func describe(app App, w io.Writer) error {
	line, err := pipe.Line(Description{
		Type: "description", Name: app.Name, Summary: app.Summary, Doc: app.Doc, Version: top.Version, Contract: top.Contract,
		Verbs: verbRecords(app, nil, app.Verbs), Flags: flagRecords(app, shared()), Exits: exits(),
	})
	if err != nil {
		return err
	}
	_, err = w.Write(line)
	return err
}

func verbRecords(app App, path []string, verbs []Verb) (recs []VerbRecord) {
	for _, v := range verbs {
		name := slices.Concat(path, []string{v.Name})
		if v.Hidden {
			continue
		}
		if v.Run == nil {
			recs = append(recs, verbRecords(app, name, v.Verbs)...)
			continue
		}
		r := VerbRecord{
			Name: strings.Join(name, " "), Summary: v.Summary, Doc: v.Doc, Serve: v.Serve, Binary: v.Binary,
			Records: v.Records, Examples: v.Examples,
		}
		for _, a := range v.Args {
			r.Args = append(r.Args, ArgRecord(a))
		}
		r.Flags = flagRecords(app, allFlags(&v)[len(shared()):])
		recs = append(recs, r)
	}
	return recs
}

func flagRecords(app App, flags []Flag) (recs []FlagRecord) {
	for _, f := range flags {
		recs = append(recs, FlagRecord{f.Name, f.Short, f.Kind.String(), f.Default, envName(app.Name, f.Name), f.Help})
	}
	return recs
}
