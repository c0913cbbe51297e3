package receipt_test

import (
	"fmt"

	"top/lib/receipt"
	"top/lib/top"
)

// A provider logs as it is paid; who checks draws a random nano of the sum, and
// the provider shows the entry that holds it.
func Example() {
	entries := []receipt.Leaf{{Amount: 300, Entry: top.ID{1}}, {Amount: 50, Entry: top.ID{2}}, {Amount: 150, Entry: top.ID{3}}}
	var log receipt.Log
	for _, e := range entries {
		if err := log.Append(e.Amount, e.Entry); err != nil {
			fmt.Println(err)
		}
	}
	root, sum, count := log.Root() // what the receipt carries

	tree, err := receipt.NewTree(entries)
	if err != nil {
		fmt.Println(err)
	}
	i, err := tree.Find(349)
	if err != nil {
		fmt.Println(err)
	}
	proof, err := tree.Prove(i)
	if err != nil {
		fmt.Println(err)
	}
	start, err := proof.Verify(root, sum, count)
	fmt.Printf("entry %d holds nano %d on: %v\n", i, start, err)
	// Output: entry 1 holds nano 300 on: <nil>
}
