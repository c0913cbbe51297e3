// Command top-chain runs a node of a chain (a validator, a full node or a light
// client) and asks one: submit, query, watch. `top-chain help` is its manual.
package main

import (
	"os"

	"top/lib/tool"
)

func main() { os.Exit(tool.Main(app(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
