package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A module is one that we link, or that our tests do.
type module struct{ path, version, dir, licence string }

// linked lists the modules behind every package of ours and its tests.
func linked(t *testing.T) (all []module) {
	t.Helper()
	const form = "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}"
	for _, line := range goList(t, "-deps", "-test", "-f", form, "top/...") {
		part := strings.SplitN(line, " ", 3)
		m := module{part[0], part[1], part[2], ""}
		if !slices.ContainsFunc(all, func(o module) bool { return o.path == m.path }) {
			m.licence = licenceOf(m.dir)
			all = append(all, m)
		}
	}
	if len(all) < 10 {
		t.Fatalf("go list knows %d modules", len(all))
	}
	return all
}

func goList(t *testing.T, args ...string) (lines []string) {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// texts tell licences apart by what they say; those that bind what links them
// come first.
var texts = []struct{ name, says string }{
	{"AGPL", "GNU AFFERO GENERAL PUBLIC LICENSE"},
	{"LGPL", "GNU LESSER GENERAL PUBLIC LICENSE"},
	{"GPL", "GNU GENERAL PUBLIC LICENSE"},
	{"MPL-2.0", "Mozilla Public License"},
	{"EPL-2.0", "Eclipse Public License"},
	{"Apache-2.0", "Apache License"},
	{"Apache-2.0", "www.apache.org/licenses/LICENSE-2.0"},
	{"BSD", "Redistribution and use in source and binary forms"},
	{"ISC", "Permission to use, copy, modify, and"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"Unlicense", "free and unencumbered software"},
	{"CC0", "CC0 1.0 Universal"},
}

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)`)

// licenceOf names the licences in the root of a module: "MIT", "Apache-2.0+MIT".
func licenceOf(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if !licenceFile.MatchString(e.Name()) || e.IsDir() {
			continue
		}
		b, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		if name := licenceIn(string(b)); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "+")
}

func licenceIn(text string) string {
	for _, l := range texts {
		// The MPL speaks of the GPL further down.
		if at := strings.Index(strings.Join(strings.Fields(text), " "), l.says); at >= 0 && (at < 200 || !strings.Contains(l.name, "GPL")) {
			return l.name
		}
	}
	return ""
}

// licences refuses what has none, and what would bind the whole of ours.
func licences(modules []module) (found []breach) {
	for _, m := range modules {
		if m.licence == "" || strings.Contains(m.licence, "GPL") {
			found = append(found, breach{rule: "licence", subject: m.path, why: fmt.Sprintf("licence %q", m.licence)})
		}
	}
	return found
}

func TestR13_AModuleIsLinkedForAReason(t *testing.T) {
	all := linked(t)
	hold(t, licences(all))
	for text, want := range map[string]string{
		"                    GNU GENERAL PUBLIC LICENSE\n Version 3":                                       "GPL",
		"GNU AFFERO GENERAL PUBLIC\nLICENSE":                                                               "AGPL",
		"Mozilla Public License Version 2.0" + strings.Repeat(" word", 99) + " GNU GENERAL PUBLIC LICENSE": "MPL-2.0",
		"The MIT License\n\nPermission is hereby granted, free\nof charge":                                 "MIT",
		"All rights reserved.": "",
	} {
		if got := licenceIn(text); got != want {
			t.Errorf("%.40q: %q, want %q", text, got, want)
		}
	}
	if got := licences([]module{{licence: "GPL"}, {licence: ""}, {licence: "MIT"}, {licence: "AGPL+MIT"}}); len(got) != 3 {
		t.Errorf("licences: %v", got)
	}

	// deps.txt says why of each module that a package of ours imports.
	direct := map[string]module{}
	for _, imp := range goList(t, "-test", "-f", `{{join .Imports "\n"}}`, "top/...") {
		imp, _, _ = strings.Cut(imp, " ")
		var best module
		for _, m := range all {
			if (imp == m.path || strings.HasPrefix(imp, m.path+"/")) && len(m.path) > len(best.path) {
				best = m
			}
		}
		if best.path != "" {
			direct[best.path] = best
		}
	}
	b, err := os.ReadFile("deps.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		part := strings.Fields(line)
		if len(part) == 0 || part[0] == "#" {
			continue
		}
		m, known := direct[part[0]]
		switch {
		case !known:
			t.Errorf("deps.txt:%d: nothing imports %s", i+1, part[0])
		case len(part) < 6 || part[1] != m.version || part[2] != m.licence:
			t.Errorf("deps.txt:%d: want %s %s %s and why in three words or more", i+1, m.path, m.version, m.licence)
		}
		delete(direct, part[0])
	}
	for _, m := range direct {
		t.Errorf("deps.txt: want a line %s %s %s and why", m.path, m.version, m.licence)
	}
}
