// Command top-wallet holds keys and money: it pays, opens and settles payment
// channels, shows bills, and runs the agent that signs for the other daemons.
// `top-wallet help` is its manual.
package main

import (
	"os"

	"top/lib/tool"
)

func main() { os.Exit(tool.Main(app(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
