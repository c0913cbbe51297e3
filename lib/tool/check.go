package tool

import (
	"fmt"
	"slices"
	"strings"
)

// check says what is wrong with an App's tables; every run of the tool asks, so
// that a mistake in one cannot pass a test.
func (app App) check() error {
	var walk func(path string, verbs []Verb) error
	walk = func(path string, verbs []Verb) error {
		seen := map[string]bool{}
		for i := range verbs {
			v := &verbs[i]
			at := strings.TrimSpace(path + " " + v.Name)
			switch {
			case v.Name == "" || seen[v.Name] || v.Name == "help":
				return fmt.Errorf("verb %q: a name that is taken", at)
			case (v.Run == nil) == (v.Verbs == nil):
				return fmt.Errorf("verb %s: want either Run or Verbs", at)
			}
			seen[v.Name] = true
			if err := checkVerb(v); err != nil {
				return fmt.Errorf("verb %s: %w", at, err)
			}
			if err := walk(at, v.Verbs); err != nil {
				return err
			}
		}
		return nil
	}
	return walk("", app.Verbs)
}

func checkVerb(v *Verb) error {
	for i, a := range v.Args {
		if a.Many && i+1 < len(v.Args) || i > 0 && v.Args[i-1].Optional && !a.Optional {
			return fmt.Errorf("operand %s: what is optional or repeats comes last", a.Name)
		}
	}
	seen := map[string]bool{"help": true, "version": true, "describe": true, "h": true}
	for _, f := range allFlags(v) {
		names := []string{f.Name}
		if f.Short != "" {
			names = append(names, f.Short)
		}
		for _, n := range names {
			if n == "" || seen[n] || (n == f.Short) != (len(n) == 1) || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				return fmt.Errorf("flag --%s: a name that is taken or malformed: %q", f.Name, n)
			}
			seen[n] = true
		}
		if f.Default != "" {
			if _, err := f.value(f.Default); err != nil || f.Kind == Bool || f.Kind == Strings {
				return fmt.Errorf("flag --%s: default %q", f.Name, f.Default)
			}
		}
		if holdsSecret(f) {
			return fmt.Errorf("flag --%s: a secret comes by --%[1]s-file or --%[1]s-fd (D4)", f.Name)
		}
	}
	return nil
}

// holdsSecret says whether a flag's value would be a secret, by its name.
func holdsSecret(f Flag) bool {
	words := strings.Split(f.Name, "-")
	if last := words[len(words)-1]; f.Kind != String || last == "file" || last == "fd" {
		return false
	}
	return slices.ContainsFunc(words, func(w string) bool {
		return slices.Contains([]string{"passphrase", "password", "secret", "seed", "words", "mnemonic", "private", "token"}, w)
	})
}
