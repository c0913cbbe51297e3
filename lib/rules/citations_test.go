package rules

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

var (
	cited  = regexp.MustCompile(`\b(?:docs/)?((?:[a-z]+/)?[a-z0-9-]+\.md)\b(?:, "([^"]+)")?`)
	tested = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)`")
)

// citations wants each page that code cites to be there, with the section that is
// named, and each test that a page names to be in the tree.
func citations(h *house) (found []breach) {
	for _, s := range h.gos {
		if s.room == "lib/rules" {
			continue
		}
		for _, c := range s.Comments {
			for _, m := range cited.FindAllStringSubmatch(strings.Join(strings.Fields(c.Text()), " "), -1) {
				page, section := m[1], m[2]
				text, there := h.files["docs/"+page]
				if !there {
					text, there = h.files[page]
				}
				heading := regexp.MustCompile(`(?m)^#+ ` + "`?" + regexp.QuoteMeta(section) + "`?(?:[:(].*)?$")
				if !there {
					found = append(found, breach{rule: "citation", subject: s.path + "->" + page, why: h.at(c.Pos()) + ": there is no docs/" + page})
				} else if section != "" && !heading.MatchString(text) {
					found = append(found, breach{rule: "citation", subject: s.path + "->" + page, why: fmt.Sprintf("%s: %s has no section %q", h.at(c.Pos()), page, section)})
				}
			}
		}
	}
	for name, text := range h.files {
		if !strings.HasPrefix(name, "docs/") || !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, m := range tested.FindAllStringSubmatch(text, -1) {
			if !h.hasFunction(m[1]) {
				found = append(found, breach{rule: "citation", subject: name + "->" + m[1], why: name + ": no test of that name"})
			}
		}
	}
	return found
}

// hasFunction says whether a test, a fuzz target or a benchmark of the tree has a
// name.
func (h *house) hasFunction(name string) bool {
	for path, text := range h.files {
		if strings.HasSuffix(path, "_test.go") && strings.Contains(text, "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}

func TestR12_CitationsLeadSomewhere(t *testing.T) {
	hold(t, citations(ours(t)))
	code, page, tests := "lib/x/a.go", "docs/wire.md", "lib/x/a_test.go"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int
	}{
		"a section":     {map[string]string{code: "// Package x: docs/wire.md, \"Two\n// words\".\npackage x", page: "# Wire\n\n## Two words\n"}, 0},
		"without docs/": {map[string]string{code: "// Package x: wire.md, \"Wire\".\npackage x", page: "# Wire\n"}, 0},
		"no section":    {map[string]string{code: "// Package x: docs/wire.md, \"Three\".\npackage x", page: "# Wire\n\n## Threeish\n"}, 1},
		"no page":       {map[string]string{code: "// Package x: docs/decisions/gone.md.\npackage x", page: ""}, 1},
		"a test":        {map[string]string{page: "`TestIt`", tests: "package x\n\nfunc TestIt() {}\n"}, 0},
		"no test":       {map[string]string{page: "`TestThat`", tests: "package x\n\nfunc TestIt() {}\n"}, 1},
	} {
		h, err := build(tc.files)
		if err != nil {
			t.Fatal(err)
		}
		if got := citations(h); len(got) != tc.want {
			t.Errorf("%s: %v, want %d", name, got, tc.want)
		}
	}
}
