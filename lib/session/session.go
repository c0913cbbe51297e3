// Package session is the life of a paid service, as pure values: the offer, the
// ticket that begins a session, the ticks that ride with the data, the vouchers
// that renew the promise, the claim that the chain pays; and the two ends as
// state machines.
//
//	S1  a counter never goes back: not a tick, a voucher's number or its amount
//	S2  what is owed is at most what the vouchers expose, and that at most the cap
//	S3  a closed session never changes
//	S4  a provider serves at most W units beyond what it was paid
//	S5  a payer ticks at most what was served, and one tick interval ahead at most
//	S6  an anchor pays once: what a voucher includes of it is never paid again
//
// It reads no clock and draws nothing at random: the caller gives the time and
// the seeds. docs/wire.md has the bytes.
package session
