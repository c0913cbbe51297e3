package rules

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documents looks at what documents and code say of each other.
func documents(h *house) []breach {
	return slices.Concat(decisions(h), records(h), scripts(h), readme(h))
}

const (
	maxDecision = 60 // lines
	maxScript   = 60
	maxReadme   = 150
)

// decisions wants each note of docs/decisions in its index, once.
func decisions(h *house) (found []breach) {
	numbers := map[string]string{}
	for name, text := range h.files {
		title := path.Base(name)
		if path.Dir(name) != "docs/decisions" || title == "README.md" {
			continue
		}
		add := func(format string, args ...any) {
			found = append(found, breach{rule: "decision", subject: name, why: fmt.Sprintf(format, args...)})
		}
		number, _, _ := strings.Cut(title, "-")
		if other := numbers[number]; other != "" {
			add("has the number of %s", other)
		}
		numbers[number] = name
		if n := strings.Count(text, "\n"); n > maxDecision {
			found = append(found, breach{"decision", name, n, fmt.Sprintf("%d lines, at most %d", n, maxDecision)})
		}
		if !regexp.MustCompile(`^[0-9]{4}-[a-z0-9-]+\.md$`).MatchString(title) {
			add("want NNNN-title.md")
		}
		if strings.Count(h.files["docs/decisions/README.md"], "("+title+")") != 1 {
			add("docs/decisions/README.md does not link to it once")
		}
	}
	return found
}

var quoted = regexp.MustCompile(`"([a-z][a-z0-9-]*)"`)

// recordTypes finds the types of records: a field tagged json:"type" says in its
// comment what it holds, and a verb lists what it prints.
func recordTypes(h *house) map[string]string {
	types := map[string]string{}
	for _, s := range h.gos {
		if s.test || s.room == "lib/rules" {
			continue
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				if n.Tag != nil && n.Tag.Value == "`json:\"type\"`" {
					for _, m := range quoted.FindAllStringSubmatch(n.Comment.Text(), -1) {
						types[m[1]] = h.at(n.Pos())
					}
				}
			case *ast.KeyValueExpr:
				list, ok := n.Value.(*ast.CompositeLit)
				if key, isName := n.Key.(*ast.Ident); !ok || !isName || key.Name != "Records" {
					return true
				}
				for _, e := range list.Elts {
					if lit, ok := e.(*ast.BasicLit); ok {
						name, _ := strconv.Unquote(lit.Value)
						types[name] = h.at(lit.Pos())
					}
				}
			}
			return true
		})
	}
	return types
}

var recordHeading = regexp.MustCompile("(?m)^#{2,4} `?([a-z][a-z0-9-]*)`?$")

// records wants a heading in docs/records.md for each type, and a type for each
// heading.
func records(h *house) (found []breach) {
	const page = "docs/records.md"
	text, there := h.files[page]
	if !there {
		return nil
	}
	types, headings := recordTypes(h), map[string]bool{}
	for _, m := range recordHeading.FindAllStringSubmatch(text, -1) {
		headings[m[1]] = true
		if types[m[1]] == "" {
			found = append(found, breach{rule: "record", subject: m[1], why: page + " describes it and nothing prints it"})
		}
	}
	for name, at := range types {
		if !headings[name] {
			found = append(found, breach{rule: "record", subject: name, why: at + ": " + page + " has no heading for it"})
		}
	}
	return found
}

// readme wants the first page short, with the two commands that set all up.
func readme(h *house) (found []breach) {
	text, there := h.files["README.md"]
	if !there {
		return nil
	}
	if n := strings.Count(text, "\n"); n > maxReadme {
		found = append(found, breach{"readme", "README.md", n, fmt.Sprintf("%d lines, at most %d", n, maxReadme)})
	}
	for _, c := range []string{"make run", "make test"} {
		if !strings.Contains(text, c) {
			found = append(found, breach{rule: "readme", subject: c, why: "README.md does not say it"})
		}
	}
	return found
}

// scripts wants compositions to stay short and to stop at the first failure.
func scripts(h *house) (found []breach) {
	for name, text := range h.files {
		if path.Dir(name) != "scripts" || !strings.HasPrefix(text, "#!") {
			continue
		}
		if n := strings.Count(text, "\n"); n > maxScript {
			found = append(found, breach{"script", name, n, fmt.Sprintf("%d lines, at most %d", n, maxScript)})
		}
		if !strings.HasPrefix(text, "#!/bin/sh\n") || !strings.Contains(text, "\nset -eu\n") {
			found = append(found, breach{rule: "script", subject: name, why: "want #!/bin/sh and set -eu"})
		}
	}
	return found
}

func TestR12_DocumentsAndCodeNameTheSameThings(t *testing.T) {
	h := ours(t)
	hold(t, documents(h))
	verbs := describe(t, h)
	for _, name := range []string{"README.md", "docs/contract.md", "docs/records.md", "docs/threats.md"} {
		for _, c := range commandsIn(h.files[name]) {
			if !verbs.has(c) {
				t.Errorf("%s: no command %s %s", name, c.tool, c.verb)
			}
		}
	}
	for bad, good := range map[string]string{
		"```sh\n$ top-x frob 1\n```\n":         "```sh\n$ top-x pay bob\n```\n",
		"try `top-x frob`":                     "try `top-x pay`, or top-x frob in prose",
		"```sh\na | top-x --json frob\n```\n":  "```sh\na | top-x --json pay -\n```\n",
		"```sh\nTOP_HOME=a top-y pay\n```\n":   "```sh\nTOP_HOME=a top-x pay\n```\n",
		"```sh\nB=$(top-x budget frob)\n```\n": "```sh\nB=$(top-x budget set web)\n```\n",
	} {
		some := verbTable{"top-x pay": true, "top-x budget": true, "top-x budget set": true}
		for text, want := range map[string]bool{bad: false, good: true} {
			all := true
			for _, c := range commandsIn(text) {
				all = all && some.has(c)
			}
			if all != want || len(commandsIn(text)) == 0 {
				t.Errorf("%q: %v", text, commandsIn(text))
			}
		}
	}
	script := "#!/bin/sh\nset -eu\n"
	catches(t, documents, "script", "scripts/x", "#!/bin/bash\n", script)
	catches(t, documents, "script", "scripts/x", script+strings.Repeat("\n", 59), script+strings.Repeat("\n", 58))
	catches(t, documents, "readme", "README.md", "make run", "make run, make test")
	catches(t, documents, "readme", "README.md", "make run, make test"+strings.Repeat("\n", 151), "make run, make test")
	note, index := "docs/decisions/0001-why.md", "docs/decisions/README.md"
	code, page := "lib/api/a.go", "docs/records.md"
	typed := "package api\ntype a struct {\n\tType string `json:\"type\"` // \"tx\", or \"block\"\n}\nvar v = verb{Records: []string{\"paid\"}}\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int
	}{
		"note and index":   {map[string]string{note: "why", index: "[why](0001-why.md)"}, 0},
		"note not indexed": {map[string]string{note: "why", index: ""}, 1},
		"long note":        {map[string]string{note: strings.Repeat("\n", 61), index: "(0001-why.md)"}, 1},
		"number twice":     {map[string]string{note: "", "docs/decisions/0001-how.md": "", index: "(0001-why.md) (0001-how.md)"}, 1},
		"all records":      {map[string]string{code: typed, page: "# Records\n## tx\n### `block`\n### paid\n"}, 0},
		"record missing":   {map[string]string{code: typed, page: "## tx\n### paid\n"}, 1},
		"record of nobody": {map[string]string{code: typed, page: "## tx\n### block\n### paid\n### gone\n"}, 1},
	} {
		h, err := build(tc.files)
		if err != nil {
			t.Fatal(err)
		}
		if got := documents(h); len(got) != tc.want {
			t.Errorf("%s: %v, want %d", name, got, tc.want)
		}
	}
}

// A verbTable holds "top-wallet budget set" and its parents.
type verbTable map[string]bool

func (v verbTable) has(c command) bool {
	first, rest, _ := strings.Cut(c.verb, " ")
	at := c.tool + " " + first
	if !v[at] {
		return false
	}
	// A group wants one of its verbs; what follows a verb is an operand.
	second, _, _ := strings.Cut(rest, " ")
	for name := range v {
		if strings.HasPrefix(name, at+" ") {
			return second == "" || v[at+" "+second]
		}
	}
	return true
}

// describe asks the real binaries what they can do.
func describe(t *testing.T, h *house) verbTable {
	t.Helper()
	table, bin := verbTable{}, t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "top/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, room := range h.rooms() {
		tool, isCmd := strings.CutPrefix(room, "cmd/")
		if !isCmd {
			continue
		}
		out, err := exec.Command(path.Join(bin, tool), "--describe").Output()
		var d struct {
			Name  string
			Verbs []struct{ Name string }
		}
		if err == nil {
			err = json.Unmarshal(out, &d)
		}
		if err != nil || d.Name != tool || len(d.Verbs) == 0 {
			t.Errorf("%s --describe: %v: %s", tool, err, out)
		}
		table[tool+" help"] = true
		for _, v := range d.Verbs {
			for at := tool + " " + v.Name; at != tool; at = at[:strings.LastIndexByte(at, ' ')] {
				table[at] = true
			}
		}
	}
	return table
}

// A command is what a text tells people to type.
type command struct{ tool, verb string }

var (
	codeText = regexp.MustCompile("(?s)```sh\n.*?```|`[^`\n]+`")
	typed    = regexp.MustCompile(`\b(top-[a-z]+)((?: +--?[a-z][a-z-]*)*) +([a-z][a-z-]*(?: +[a-z][a-z-]*)?)`)
)

// commandsIn finds commands in blocks of shell and between back quotes.
func commandsIn(text string) (all []command) {
	for _, code := range codeText.FindAllString(text, -1) {
		for _, m := range typed.FindAllStringSubmatch(code, -1) {
			all = append(all, command{m[1], m[3]})
		}
	}
	return all
}
