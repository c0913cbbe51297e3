//go:build !linux

package netcfg

import (
	"context"
	"net/netip"

	"top/lib/policy"
	"top/lib/top"
)

func unsupported(what string) error {
	return top.Errorf(top.Failed, "%s: this system's network is not set up here, only Linux's (without it: --socks)", what)
}

// Up is for Linux.
func Up(t Tunnel) error { return unsupported("tunnel " + t.Name) }

// Down is for Linux.
func Down(name string) error { return unsupported("tunnel " + name) }

// SetEndpoints is for Linux.
func SetEndpoints(name string, endpoints []netip.AddrPort) error {
	return unsupported("tunnel " + name)
}

// Left is nothing: elsewhere than on Linux nothing is set.
func Left() ([]State, error) { return nil, nil }

// Serve is for Linux.
func Serve(e Exit) error { return unsupported("exit " + e.Name) }

// Stop is for Linux.
func Stop(name string) error { return unsupported("exit " + name) }

// Refresh is for Linux.
func Refresh(name string, p *policy.Policy) error { return unsupported("exit " + name) }

// Keep is for Linux.
func Keep(ctx context.Context, name string, p *policy.Policy) error {
	return unsupported("exit " + name)
}

// Own is for Linux.
func Own(but string) ([]netip.Prefix, error) { return nil, unsupported("own networks") }
