package tool

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"top/lib/top"
)

func completionVerb(app App) Verb {
	return Verb{
		Name: "completion", Summary: "print a completion script for a shell",
		Args:     []Arg{{Name: "SHELL", Help: "bash, zsh or fish"}},
		Examples: []string{fmt.Sprintf(". <(%s completion bash)", app.Name), fmt.Sprintf("%s completion fish > ~/.config/fish/completions/%[1]s.fish", app.Name)},
		Run: func(_ context.Context, c *Call) error {
			script, ok := map[string]func(App) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Arg(0)]
			if !ok {
				return top.Errorf(top.Usage, "no completion for %q (there is bash, zsh and fish)", c.Arg(0))
			}
			_, err := io.WriteString(c.Out, script(c.app))
			return err
		},
	}
}

// A stop is a place on the command line where words may follow: the tool, a
// group of verbs, or a verb.
type stop struct {
	path []string
	next []Verb // verbs that may follow
	last *Verb  // the verb whose flags may follow; nil for the tool
}

// stops lists every place, parents first.
func stops(app App) (all []stop) {
	var walk func(path []string, last *Verb, verbs []Verb)
	walk = func(path []string, last *Verb, verbs []Verb) {
		verbs = slices.DeleteFunc(slices.Clone(verbs), func(v Verb) bool { return v.Hidden })
		all = append(all, stop{path, verbs, last})
		for i := range verbs {
			walk(slices.Concat(path, []string{verbs[i].Name}), &verbs[i], verbs[i].Verbs)
		}
	}
	walk(nil, nil, app.Verbs)
	return all
}

// words are what may follow at a stop.
func (s stop) words() (w []string) {
	for _, v := range s.next {
		w = append(w, v.Name)
	}
	for _, f := range allFlags(s.last) {
		w = append(w, "--"+f.Name)
	}
	return append(w, "--help")
}

// bashScript follows the verbs on the line, passing over what is none, and
// offers what may follow the last of them, else files.
func bashScript(app App) string {
	fn := "_" + strings.ReplaceAll(app.Name, "-", "_")
	var known, cases strings.Builder
	for _, s := range stops(app) {
		path := strings.Join(s.path, " ")
		if path != "" {
			fmt.Fprintf(&known, "|'%s'", path)
		}
		fmt.Fprintf(&cases, "    '%s') words='%s' ;;\n", path, strings.Join(s.words(), " "))
	}
	return fmt.Sprintf(`%[1]s() {
  local cur=${COMP_WORDS[COMP_CWORD]} path= words= w
  for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "${path:+$path }$w" in %[2]s) path="${path:+$path }$w" ;; esac
  done
  case "$path" in
%[3]s  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ "${#COMPREPLY[@]}" -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F %[1]s %[4]s
`, fn, strings.TrimPrefix(known.String(), "|"), cases.String(), app.Name)
}

func zshScript(app App) string {
	return "#compdef " + app.Name + "\nautoload -U +X bashcompinit && bashcompinit\n" + bashScript(app)
}

// fishScript says for each stop what may follow, and what it does.
func fishScript(app App) string {
	var b strings.Builder
	for _, s := range stops(app) {
		cond := "__fish_use_subcommand"
		if len(s.path) > 0 {
			cond = "__fish_seen_subcommand_from " + strings.Join(s.path, "; and __fish_seen_subcommand_from ")
		}
		for _, v := range s.next {
			fmt.Fprintf(&b, "complete -c %s -n %s -f -a %s -d %s\n", app.Name, fishQuote(cond), v.Name, fishQuote(v.Summary))
		}
		for _, f := range allFlags(s.last) {
			fmt.Fprintf(&b, "complete -c %s -n %s -l %s", app.Name, fishQuote(cond), f.Name)
			if f.Short != "" {
				fmt.Fprintf(&b, " -s %s", f.Short)
			}
			if f.Kind != Bool {
				b.WriteString(" -r")
			}
			fmt.Fprintf(&b, " -d %s\n", fishQuote(f.Help))
		}
	}
	return b.String()
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
