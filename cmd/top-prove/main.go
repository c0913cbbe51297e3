// Command top-prove checks proofs of service: it lists receipts, verifies them and
// traces one from the log of what was served to the block that paid for it.
// `top-prove help` is its manual.
package main

import (
	"os"

	"top/lib/tool"
)

func main() { os.Exit(tool.Main(app(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
