package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// packageComments looks at the first thing that a reader sees of a room.
func packageComments(h *house) (found []breach) {
	for _, room := range h.rooms() {
		add := func(format string, args ...any) {
			found = append(found, breach{rule: "comment", subject: room, why: fmt.Sprintf(format, args...)})
		}
		docs := h.docs(room)
		if len(docs) != 1 {
			add("%d files with a package comment, want 1", len(docs))
			continue
		}
		name, isLib := strings.CutPrefix(room, "lib/")
		want := "Package " + path.Base(room) + " "
		if !isLib {
			want = "Command " + path.Base(room) + " "
		}
		if !strings.HasPrefix(docs[0], want) {
			add("the package comment does not begin with %q", want)
		}
		if !isLib || strings.Contains(name, "/") {
			continue
		}
		numbers := invariants(docs[0])
		if len(numbers) == 0 {
			add("the package comment numbers no invariant")
		}
		for i, n := range numbers {
			letter := strings.TrimRight(n, "0123456789")
			if n != letter+strconv.Itoa(i+1) || letter != strings.TrimRight(numbers[0], "0123456789") {
				add("invariant %s is out of its row", n)
			}
			if !h.hasTest(room, "Test"+n+"_") {
				found = append(found, breach{rule: "invariant", subject: room + ":" + n, why: "no func Test" + n + "_… in " + room})
			}
		}
	}
	return found
}

// docs are the package comments of a room.
func (h *house) docs(room string) (all []string) {
	for _, s := range h.gos {
		if s.room == room && !s.test && s.Doc != nil {
			all = append(all, s.Doc.Text())
		}
	}
	return all
}

var invariantLine = regexp.MustCompile(`(?m)^\t([A-Z]{1,2}[0-9]+) {2,}\S`)

func invariants(doc string) (numbers []string) {
	for _, m := range invariantLine.FindAllStringSubmatch(doc, -1) {
		numbers = append(numbers, m[1])
	}
	return numbers
}

// hasTest says whether a test, a fuzz test or an example of the room has a name
// that begins so.
func (h *house) hasTest(room, prefix string) bool {
	return slices.ContainsFunc(h.gos, func(s source) bool {
		return s.test && s.room == room && slices.ContainsFunc(s.Decls, func(d ast.Decl) bool {
			f, ok := d.(*ast.FuncDecl)
			return ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, prefix)
		})
	})
}

func TestR6_ARoomBeginsWithWhatItIs(t *testing.T) {
	hold(t, packageComments(ours(t)))
	doc := "// Package x is a thing.\n//\n//\tX1  it holds\n//\tX2  it goes on\n//\t    holding\n"
	test := "package x\nfunc TestX1_ItHolds() {}\nfunc TestX2_() {}\n"
	for name, tc := range map[string]struct {
		doc, test string
		want      int
	}{
		"good":         {doc, test, 0},
		"no comment":   {"", test, 1},
		"other name":   {strings.Replace(doc, "Package x", "Package y", 1), test, 1},
		"no invariant": {"// Package x is a thing.\n", test, 1},
		"gap":          {strings.Replace(doc, "X2", "X3", 1), test, 2},
		"no test":      {doc, "package x\nfunc TestX1_ItHolds() {}\nfunc TestX2Holds() {}\n", 1},
	} {
		h, err := build(map[string]string{"lib/x/x.go": tc.doc + "package x", "lib/x/x_test.go": tc.test})
		if err != nil {
			t.Fatal(err)
		}
		if got := packageComments(h); len(got) != tc.want {
			t.Errorf("%s: %v, want %d", name, got, tc.want)
		}
	}
}

// The sizes (docs/style.md, "Shape"). Tests have none: a table is as long as its
// cases.
const (
	maxFunction   = 70 // lines
	maxFile       = 500
	maxMain       = 25 // main.go of a command, which hands over and no more
	maxRoom       = 1500
	maxParameters = 5
	maxFields     = 15
	maxImports    = 8 // of our rooms
)

func sizes(h *house) (found []breach) {
	add := func(rule, subject string, size, limit int) {
		if size > limit {
			found = append(found, breach{rule, subject, size, fmt.Sprintf("%d, usual is up to %d", size, limit)})
		}
	}
	lines, imports := map[string]int{}, map[string]map[string]bool{}
	for _, s := range h.gos {
		if s.test {
			continue
		}
		n := strings.Count(h.files[s.path], "\n")
		if path.Base(s.path) == "main.go" && strings.HasPrefix(s.room, "cmd/") {
			add("file", s.path, n, maxMain)
		}
		add("file", s.path, n, maxFile)
		lines[s.room] += n
		if imports[s.room] == nil {
			imports[s.room] = map[string]bool{}
		}
		for _, i := range s.Imports {
			if strings.HasPrefix(i.Path.Value, `"top/`) {
				imports[s.room][i.Path.Value] = true
			}
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				subject := s.path + ":" + n.Name.Name
				add("function", subject, h.fset.Position(n.End()).Line-h.fset.Position(n.Pos()).Line+1, maxFunction)
				add("parameters", subject, n.Type.Params.NumFields(), maxParameters)
			case *ast.TypeSpec:
				if st, ok := n.Type.(*ast.StructType); ok {
					add("fields", s.path+":"+n.Name.Name, st.Fields.NumFields(), maxFields)
				}
			}
			return true
		})
	}
	for room, n := range lines {
		add("room", room, n, maxRoom)
		add("imports", room, len(imports[room]), maxImports)
	}
	return found
}

func TestR7_ThingsKeepTheirSizes(t *testing.T) {
	hold(t, sizes(ours(t)))
	long := func(n int) string { return strings.Repeat("\n", n) }
	for name, tc := range map[string][2]string{
		"function":   {"func f() {" + long(70) + "}", "func f() {" + long(69) + "}"},
		"file":       {long(501), long(499)},
		"parameters": {"func f(a, b, c, d, e, f int) {}", "func f(a, b, c, d, e int) {}"},
		"fields":     {"type t struct{a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p int}", "type t struct{a, b, c, d, e, f, g, h, i, j, k, l, m, n, o int}"},
	} {
		catches(t, sizes, name, "lib/x/a.go", "package x;"+tc[0], "package x;"+tc[1])
	}
	catches(t, sizes, "main", "cmd/top-x/main.go", "package main"+long(26), "package main"+long(25))
	for rooms, want := range map[int]int{8: 0, 9: 1} {
		text := "package x\n"
		for i := range rooms {
			text += fmt.Sprintf("import _ \"top/lib/a%d\"\n", i)
		}
		h, err := build(map[string]string{"lib/x/a.go": text})
		if err != nil || len(sizes(h)) != want {
			t.Errorf("%d rooms imported: %v, %v", rooms, sizes(h), err)
		}
	}
	h, err := build(map[string]string{"lib/x/a.go": "package x" + long(499), "lib/x/b.go": "package x" + long(499), "lib/x/c.go": "package x" + long(499), "lib/x/d.go": "package x" + long(4)})
	if err != nil || len(sizes(h)) != 1 {
		t.Errorf("a room of 1501 lines: %v, %v", sizes(h), err)
	}
}

// noGlobals allows package-level variables that are tables, sentinels or
// patterns, and refuses whatever is written to after it was declared.
func noGlobals(h *house) (found []breach) {
	globals := map[string]map[string]bool{} // by room
	for _, s := range h.gos {
		if s.test {
			continue
		}
		if globals[s.room] == nil {
			globals[s.room] = map[string]bool{}
		}
		for _, d := range s.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "init" && f.Recv == nil {
				found = append(found, breach{rule: "global", subject: s.path + ":init", why: h.at(f.Pos()) + ": say it in a constructor"})
			}
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					globals[s.room][name.Name] = true
					if i >= len(v.Values) || !constant(v.Values[i]) {
						found = append(found, breach{rule: "global", subject: s.path + ":" + name.Name, why: h.at(name.Pos()) + ": neither a table nor a sentinel"})
					}
				}
			}
		}
	}
	for _, s := range h.gos {
		if s.test {
			continue
		}
		for _, n := range writes(s.File) {
			if globals[s.room][n.Name] && (n.Obj == nil || n.Obj == s.Scope.Lookup(n.Name)) {
				found = append(found, breach{rule: "global", subject: s.path + ":" + n.Name, why: h.at(n.Pos()) + ": a global is written to"})
			}
		}
	}
	return found
}

// constant says whether a value looks like what never changes: a literal, a
// table, a sentinel, a pattern.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit, *ast.CompositeLit, *ast.FuncLit, *ast.Ident, *ast.SelectorExpr:
		return true
	case *ast.UnaryExpr:
		return constant(e.X)
	case *ast.BinaryExpr:
		return constant(e.X) && constant(e.Y)
	case *ast.CallExpr:
		switch f := e.Fun.(type) {
		case *ast.Ident:
			return f.Name != "make" && f.Name != "new"
		case *ast.SelectorExpr:
			return is(f, "errors", "New") || is(f, "fmt", "Errorf") || is(f, "top", "Errorf") || is(f, "regexp", "MustCompile") ||
				is(f, "big", "NewInt") || is(f, "strings", "NewReplacer") || is(f, "sha256", "Sum256")
		case *ast.ArrayType, *ast.MapType:
			return true
		}
	}
	return false
}

// writes are the names to which, or to parts of which, a file assigns.
func writes(f *ast.File) (names []*ast.Ident) {
	base := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				names = append(names, x)
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					base(l)
				}
			}
		case *ast.IncDecStmt:
			base(n.X)
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear" || f.Name == "copy") && len(n.Args) > 0 {
				base(n.Args[0])
			}
		}
		return true
	})
	return names
}

func TestR8_NoGlobalChanges(t *testing.T) {
	hold(t, noGlobals(ours(t)))
	for bad, good := range map[string]string{
		"func init() {}":               "func Init() {}",
		"var n int":                    "var n = 5",
		"var m = make(map[string]int)": `var m = map[string]int{"a": 1}`,
		`var m = map[string]int{}; func f() {m["a"]=1}`: `func f() {m := map[string]int{}; m["a"]=1}`,
		`var n = 5; func f() {n++}`:                     `var n = 5; func f(n int) {n++}`,
		`var m = []int{1}; func f() {clear(m)}`:         `var m = []int{1}; func f() {m := []int{}; clear(m)}`,
		"import \"sync\"; var mu sync.Mutex":            "import \"sync\"; func f() {var mu sync.Mutex; mu.Lock()}",
		"import \"sync\"; var f = sync.OnceValue(g)":    `import "errors"; var f = errors.New("x")`,
	} {
		catches(t, noGlobals, bad, "lib/x/a.go", "package x;"+bad, "package x;"+good)
	}
}
