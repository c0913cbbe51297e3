package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// routesIn reads the literal table of routes in a file: "METHOD PATH access
// public".
func routesIn(t *testing.T, path string) (routes []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	must(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		said := map[string]string{}
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				key, named := kv.Key.(*ast.Ident)
				if !named {
					continue
				}
				switch v := kv.Value.(type) {
				case *ast.BasicLit:
					said[key.Name], _ = strconv.Unquote(v.Value)
				case *ast.Ident: // w is sock.Write
					said[key.Name] = map[string]string{"w": "write", "true": "yes"}[v.Name]
				case *ast.SelectorExpr:
					said[key.Name] = strings.ToLower(v.Sel.Name)
				}
			}
		}
		if said["Method"] == "" || said["Path"] == "" {
			return true
		}
		access, public := "read", "no"
		if said["Access"] != "" {
			access = said["Access"]
		}
		if said["Public"] != "" {
			public = said["Public"]
		}
		routes = append(routes, said["Method"]+" "+said["Path"]+" "+access+" "+public)
		return true
	})
	return routes
}

var routeRow = regexp.MustCompile(`(?m)^\| ((?:GET|POST) [^ ]+) \| (read|write) \| (yes|no) \|`)

// The tables of docs/contract.md, "Sockets", are those of the daemons, in order.
func TestTheContractHasEveryRoute(t *testing.T) {
	text, err := os.ReadFile("../../docs/contract.md")
	must(t, err)
	_, chain, _ := strings.Cut(string(text), "\n`chain.sock`, ")
	chain, wallet, _ := strings.Cut(chain, "\n`wallet.sock`, ")
	wallet, relay, _ := strings.Cut(wallet, "\n`relay.sock`, ")
	relay, vpn, _ := strings.Cut(relay, "\n`vpn.sock`, ")
	for file, part := range map[string]string{"../chain/route.go": chain, "../wallet/route.go": wallet, "../relay/route.go": relay, "../vpn/routes.go": vpn} {
		var page []string
		for _, m := range routeRow.FindAllStringSubmatch(part, -1) {
			page = append(page, m[1]+" "+m[2]+" "+m[3])
		}
		if code := routesIn(t, file); len(code) < 5 || !slices.Equal(page, code) {
			t.Errorf("%s has\n %q, the page\n %q", file, code, page)
		}
	}
	// A light client has the same table and answers no stranger.
	node, light := routesIn(t, "../chain/route.go"), routesIn(t, "../chain/light_route.go")
	for i := range node {
		if i >= len(light) || strings.TrimSuffix(strings.TrimSuffix(node[i], " yes"), " no") != strings.TrimSuffix(light[i], " no") {
			t.Errorf("a node answers %q, a light client %q", node, light)
			break
		}
	}
}
