//go:build !linux

package wg

import "golang.zx2c4.com/wireguard/conn"

func newUDP(bool) conn.Bind { return conn.NewStdNetBind() }
