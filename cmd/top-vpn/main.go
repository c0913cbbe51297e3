// Command top-vpn is tunnels: "top-vpn serve --provide" sells an exit, "top-vpn up" uses
// one and pays for what it acknowledges.
package main

import (
	"os"

	"top/lib/tool"
)

func main() { os.Exit(tool.Main(app(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
