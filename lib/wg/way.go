package wg

import "golang.zx2c4.com/wireguard/conn"

// A Way is how datagrams reach the other end: UDP, or of this package Ways, Carried
// and the one of a Hop.
type Way = conn.Bind
