package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"top/lib/api"
	"top/lib/home"
	"top/lib/sock"
	"top/lib/tool"
	"top/lib/top"
)

// try runs fn as a verb of a tool that asks the chain and the wallet.
func try(fn func(context.Context, *tool.Call) error, args ...string) (stdout, stderr string) {
	app := tool.App{Name: "top-x", Verbs: []tool.Verb{{Name: "do", Flags: []tool.Flag{ChainFlag(), WalletFlag()}, Run: fn}}}
	var out, errw bytes.Buffer
	tool.Main(app, append([]string{"top-x", "do"}, args...), strings.NewReader(""), &out, &errw)
	return out.String(), errw.String()
}

// place is a folder short enough for a socket, wherever temporary files live.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve answers on a socket until the test ends.
func serve(t *testing.T, path string, routes ...sock.Route) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := sock.New(sock.Config{Name: "top-x", Sock: path, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestDM1_ASocketIsTheOneThatIsNamed(t *testing.T) {
	t.Setenv("TOP_HOME", "/nowhere/env")
	t.Setenv("HOME", "/nowhere/user")
	askChain := func(ctx context.Context, c *tool.Call) error {
		chain, err := Chain(c)
		if err != nil {
			return err
		}
		_, err = chain.Status(ctx)
		return err
	}
	askWallet := func(ctx context.Context, c *tool.Call) error {
		w, err := Wallet(c)
		if err != nil {
			return err
		}
		return w.Budgets(ctx, func(api.Budget) error { return nil })
	}
	for _, tc := range []struct {
		ask  func(context.Context, *tool.Call) error
		args []string
		want string
	}{
		{askChain, nil, "offline: no answer on /nowhere/env/run/chain.sock (start it: top-chain serve)"},
		{askChain, []string{"--home", "/nowhere/flag"}, "/nowhere/flag/run/chain.sock"},
		{askChain, []string{"--home", "/nowhere/flag", "--chain-sock", "/nowhere/c.sock"}, "/nowhere/c.sock"},
		{askWallet, nil, "offline: no answer on /nowhere/env/run/wallet.sock (start it: top-wallet agent)"},
		{askWallet, []string{"--wallet-sock", "/nowhere/w.sock"}, "/nowhere/w.sock"},
		{askChain, []string{"--home", "/" + strings.Repeat("x", 100)}, "choose a shorter --home"},
	} {
		if _, stderr := try(tc.ask, tc.args...); !strings.Contains(stderr, tc.want) {
			t.Errorf("%q: %s, want %s", tc.args, stderr, tc.want)
		}
	}
	t.Setenv("TOP_HOME", "")
	if _, stderr := try(askChain); !strings.Contains(stderr, "/nowhere/user/.top/run/chain.sock") {
		t.Error(stderr)
	}
	t.Setenv("HOME", "")
	if _, stderr := try(askWallet); !strings.Contains(stderr, "--home") {
		t.Errorf("no home at all: %s", stderr)
	}
}

func TestNamesAreOfTheHomesContacts(t *testing.T) {
	dir := home.Dir(place(t))
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	bob := top.Address{1, 2, 3}
	if err := dir.AddContact("bob", bob); err != nil {
		t.Fatal(err)
	}
	resolve := func(_ context.Context, c *tool.Call) error {
		a, err := Resolve(c, "bob")
		if err != nil {
			return err
		}
		return c.Emit(nil, "%s", a)
	}
	if out, _ := try(resolve, "--home", string(dir)); strings.TrimSpace(out) != bob.String() {
		t.Errorf("bob is %q", out)
	}
	if out, stderr := try(resolve, "--home", place(t)); out != "" || stderr == "" {
		t.Errorf("a stranger's home knows bob: %q", out)
	}
}

// checks runs the checks of a home and wants a remedy for whatever is not well.
func checks(t *testing.T, dir home.Dir) (states string, all []tool.Check) {
	t.Helper()
	_, stderr := try(func(ctx context.Context, c *tool.Call) error {
		all = []tool.Check{CheckNodeKey(dir), CheckDisk(dir, 1, "it is needed"), CheckChain(ctx, c), CheckBudget(ctx, c, "vpn", "no tunnel is paid")}
		return nil
	}, "--home", string(dir))
	if stderr != "" {
		t.Fatal(stderr)
	}
	for _, k := range all {
		states += string(k.State) + " "
		if (k.Fix == "") != (k.State == tool.OK) || k.Detail == "" || k.Name == "" {
			t.Errorf("%+v", k)
		}
	}
	return strings.TrimSpace(states), all
}

func TestDM2_WhatIsNotWellNamesItsRemedy(t *testing.T) {
	if states, _ := checks(t, home.Dir(place(t)+"/none")); states != "bad bad bad bad" {
		t.Errorf("no home: %s", states)
	}
	dir := home.Dir(place(t))
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Path("keys", "node.key"), []byte(strings.Repeat("5", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	status := api.ChainStatus{Type: "chain-status", Role: "light", Height: 7}
	budgets := []api.Budget{{Type: "budget", Service: "relay", PerDay: 3}}
	serve(t, dir.Path("run", "chain.sock"), sock.Route{Method: "GET", Path: "/v1/status", Handle: func(c *sock.Call) error { return c.JSON(status) }})
	serve(t, dir.Path("run", "wallet.sock"), sock.Route{Method: "GET", Path: "/v1/budgets", Handle: func(c *sock.Call) error { return sock.Records(c, budgets) }})
	for _, tc := range []struct {
		status       api.ChainStatus
		budget       string
		want, detail string
	}{
		{api.ChainStatus{Role: "light", Height: 7}, "vpn", "ok ok ok ok", "light, block 7"},
		{api.ChainStatus{Role: "light", Height: 8, Stale: true}, "vpn", "ok ok bad ok", "block 8 is older"},
		{api.ChainStatus{Role: "light", Time: top.TimeOf(time.Now().Add(time.Hour))}, "relay", "ok ok bad warn", "ahead of this machine"},
	} {
		status, budgets[0].Service = tc.status, tc.budget
		states, all := checks(t, dir)
		if states != tc.want || !strings.Contains(all[2].Detail, tc.detail) || all[2].Name != "chain" {
			t.Errorf("%s, %+v; want %s and %q", states, all[2], tc.want, tc.detail)
		}
	}
	if k := CheckDisk(dir, 1<<63, "nothing is kept"); k.State != tool.Bad || k.Fix != "free some space: nothing is kept" {
		t.Errorf("a full disk: %+v", k)
	}
}
