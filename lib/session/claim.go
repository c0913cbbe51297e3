package session

// A Claim is what a provider shows to be paid: one voucher, the highest tick of
// each of its anchors, and what recipients acknowledged of its asides.
type Claim struct {
	Voucher Voucher
	Ticks   []Tick // in the order of Voucher.Anchors; I is 0 where there is none
	Acks    []Ack  // in the order of Voucher.Asides, and of their From
}
