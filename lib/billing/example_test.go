package billing_test

import (
	"fmt"

	"top/lib/billing"
	"top/lib/top"
)

// Of 1 TOP and a nano, the exit gets 70 %, the relay 20 %; what is left stays
// with the payer.
func ExampleSplit() {
	parts, rest, err := billing.Split(top.One+1, []billing.Share{
		{To: top.Address{1}, PPM: 700_000},
		{To: top.Address{2}, PPM: 200_000},
	})
	fmt.Println(parts, rest, err)
	// Output: [0.7 0.2] 0.100000001 <nil>
}
