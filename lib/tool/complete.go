package tool

import (
	"context"
	"fmt"
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
			_, err := fmt.Fprint(c.Out, script(app))
			return err
		},
	}
}

// words lists each verb's path with the words that may follow it.
func words(app App) (paths []string, next map[string][]string) {
	next = map[string][]string{}
	var walk func(path string, verbs []Verb)
	walk = func(path string, verbs []Verb) {
		paths = append(paths, path)
		for _, v := range verbs {
			if v.Hidden {
				continue
			}
			next[path] = append(next[path], v.Name)
			at := strings.TrimSpace(path + " " + v.Name)
			if v.Run == nil {
				walk(at, v.Verbs)
				continue
			}
			paths = append(paths, at)
			for _, f := range allFlags(&v) {
				next[at] = append(next[at], "--"+f.Name)
			}
		}
	}
	walk("", app.Verbs)
	return paths, next
}

// bashScript completes by the longest verb path on the line.
func bashScript(app App) string {
	fn := "_" + strings.ReplaceAll(app.Name, "-", "_")
	var b strings.Builder
	fmt.Fprintf(&b, "%s() {\n  local cur=${COMP_WORDS[COMP_CWORD]} path= w words=\n", fn)
	b.WriteString("  for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do case $w in -*) ;; *) path=\"${path:+$path }$w\";; esac; done\n")
	b.WriteString("  while :; do case $path in\n")
	paths, next := words(app)
	for _, p := range paths {
		fmt.Fprintf(&b, "    %q) words=%q; break;;\n", p, strings.Join(next[p], " "))
	}
	b.WriteString("    *' '*) path=${path% *};;\n    *) break;;\n  esac; done\n")
	fmt.Fprintf(&b, "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n  [ \"${#COMPREPLY[@]}\" -gt 0 ] || COMPREPLY=($(compgen -f -- \"$cur\"))\n}\ncomplete -F %s %s\n", fn, app.Name)
	return b.String()
}

func zshScript(app App) string {
	return "#compdef " + app.Name + "\nautoload -U +X bashcompinit && bashcompinit\n" + bashScript(app)
}

func fishScript(app App) string {
	var b strings.Builder
	paths, next := words(app)
	for _, p := range paths {
		cond := "__fish_use_subcommand"
		if p != "" {
			cond = "__fish_seen_subcommand_from " + p
		}
		for _, w := range next[p] {
			if flag, ok := strings.CutPrefix(w, "--"); ok {
				fmt.Fprintf(&b, "complete -c %s -n '%s' -l %s\n", app.Name, cond, flag)
			} else {
				fmt.Fprintf(&b, "complete -c %s -f -n '%s' -a %s\n", app.Name, cond, w)
			}
		}
	}
	return b.String()
}
