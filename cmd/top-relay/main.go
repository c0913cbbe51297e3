// Command top-relay sends and receives messages, sealed from end to end and kept
// for who is offline, and sells the keeping. `top-relay help` is its manual.
package main

import (
	"os"

	"top/lib/tool"
)

func main() { os.Exit(tool.Main(app(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
