package explorer

// page is the one page, html/template. It has no script and loads nothing.
const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{{if .Refresh}}<meta http-equiv="refresh" content="{{.Refresh}}">{{end}}
<title>{{.Title}}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin-bottom: 1rem; }
input { font: inherit; width: 26rem; max-width: 100%; padding: .3rem .5rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
td { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere; min-width: 4.5rem; }
.error { border-left: 4px solid #c33; padding-left: .75rem; }
</style>
</head>
<body>
<nav>
<a href="/">blocks</a> <a href="/nodes">nodes</a> <a href="/validators">validators</a>
<form action="/find"><input name="q" aria-label="find" title="height, address, transaction, channel or node"> <button>find</button></form>
</nav>
<h1>{{.Title}}</h1>
{{if .Error}}<p class="error">{{.Error}}</p>{{end}}
{{range .Tables}}
<h2>{{.Name}}</h2>
<div class="scroll"><table>
{{if .Head}}<tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>{{end}}
{{$head := .Head}}
{{range .Rows}}<tr>{{range $i, $c := .}}{{if and (not $head) (eq $i 0)}}<th>{{$c}}</th>{{else}}<td>{{with link $c}}<a href="{{.}}">{{$c}}</a>{{else}}{{$c}}{{end}}</td>{{end}}{{end}}</tr>
{{else}}<tr><td>none</td></tr>{{end}}
</table></div>
{{end}}
</body>
</html>
`
