package tooltest

import (
	"os"
	"testing"
)

// Every binary keeps the contract at its door, whatever its verbs are.
func TestScript(t *testing.T) {
	entries, err := os.ReadDir("../../../cmd")
	if err != nil {
		t.Fatal(err)
	}
	var cmds []string
	for _, e := range entries {
		cmds = append(cmds, e.Name())
	}
	Run(t, "testdata/script", cmds...)
}
