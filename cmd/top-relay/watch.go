package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
)

func watchVerb() tool.Verb {
	return tool.Verb{
		Name: "watch", Summary: "print messages as they come",
		Doc: `Prints the messages of the inbox with a number above --since (default: those that come from
now on) and goes on until it is interrupted, or nothing came for --idle. Their senders are
told that they were read, unless --no-read. With --save every body is in FOLDER, under
the message's id, before its record is printed.`,
		Flags: []tool.Flag{
			{Name: "since", Kind: tool.Int, Help: "number of the last message seen; 0 prints all"},
			{Name: "idle", Kind: tool.Duration, Help: "end when nothing came for so long; 0 never"},
			{Name: "save", Help: "write bodies into this folder"},
			{Name: "from", Help: "only those of an address, or a contact"},
			{Name: "requests", Kind: tool.Bool, Help: "print what strangers wrote instead"},
			{Name: "no-read", Kind: tool.Bool, Help: "do not tell the senders"},
			sockFlag(),
		},
		Records:  []string{"message"},
		Examples: []string{"top-relay watch", "top-relay watch --json --since 0 --idle 5s", "top-relay watch --since 0 --save inbox"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			w := &watcher{c: c, agent: agent, box: "inbox"}
			if c.Bool("requests") {
				w.box = "requests"
			}
			if s := c.String("from"); s != "" {
				if w.from, err = daemon.Resolve(c, s); err != nil {
					return err
				}
			}
			if dir := c.String("save"); dir != "" {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return fmt.Errorf("make %s: %w", dir, err)
				}
			}
			return w.run(ctx)
		},
	}
}

// A watcher prints a box.
type watcher struct {
	c     *tool.Call
	agent *api.Relay
	box   string
	from  top.Address
	since top.Count

	mu   sync.Mutex
	seen []string // printed, and not told to their senders yet
}

// errIdle ends a watch on which nothing came.
var errIdle = errors.New("idle")

// run prints until it is over, and tells the senders meanwhile.
func (w *watcher) run(ctx context.Context) error {
	if w.c.Set("since") {
		w.since = top.Count(max(0, w.c.Int("since")))
	} else if s, err := w.agent.Status(ctx); err != nil {
		return err
	} else {
		w.since = s.Inbox
	}
	watch, cancel := context.WithCancelCause(ctx)
	var told sync.WaitGroup
	told.Go(func() {
		for tick := time.NewTicker(tellEvery); ; {
			select {
			case <-watch.Done():
				tick.Stop()
				return
			case <-tick.C:
				if err := w.read(watch); err != nil && !errors.Is(err, top.ErrOffline) {
					cancel(err)
				}
			}
		}
	})
	err := w.follow(watch, cancel)
	cancel(nil)
	told.Wait()
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer stop()
	if e := w.read(last); err == nil {
		err = e
	}
	return err
}

const (
	tellEvery = 200 * time.Millisecond // at most, while messages are saved
	lastWord  = 2 * time.Second        // for what was printed when the watch ended
)

// follow prints until ctx ends. A daemon that starts again is asked again, if --idle
// bounds how long.
func (w *watcher) follow(ctx context.Context, cancel context.CancelCauseFunc) error {
	idle := w.c.Duration("idle")
	var alarm *time.Timer
	if idle > 0 {
		alarm = time.AfterFunc(idle, func() { cancel(errIdle) })
		defer alarm.Stop()
	}
	for {
		err := w.agent.Messages(ctx, w.box, w.since, true, func(m api.Message) error {
			if alarm != nil {
				alarm.Stop()
				defer alarm.Reset(idle)
			}
			return w.print(ctx, m)
		})
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errIdle):
			return nil
		case cause != nil && !errors.Is(cause, context.Canceled):
			return cause
		case ctx.Err() != nil || err != nil && (!errors.Is(err, top.ErrOffline) || idle == 0):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(tellEvery):
		}
	}
}

// print prints a message, once its body is saved.
func (w *watcher) print(ctx context.Context, m api.Message) error {
	w.since = m.Seq
	if !w.from.IsZero() && m.From != w.from {
		return nil
	}
	if dir := w.c.String("save"); dir != "" && m.State != "request" {
		m.Path = filepath.Join(dir, fileName(m))
		if err := saveBody(ctx, w.agent, m); err != nil {
			return err
		}
	}
	if err := w.c.Emit(m, "%s", m); err != nil {
		return err
	}
	if !w.c.Bool("no-read") && m.State == "new" {
		w.mu.Lock()
		w.seen = append(w.seen, m.ID)
		n := len(w.seen)
		w.mu.Unlock()
		if w.c.String("save") == "" || n >= 256 {
			return w.read(ctx)
		}
	}
	return nil
}

// fileName is where a body is saved: two senders may give two messages one id, and
// neither chooses a path.
func fileName(m api.Message) string { return m.ID + "-" + hex.EncodeToString(m.From[:4]) }

// read tells the senders what was seen.
func (w *watcher) read(ctx context.Context) error {
	w.mu.Lock()
	ids := w.seen
	w.seen = nil
	w.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	err := w.agent.Read(ctx, ids)
	if err != nil { // another time
		w.mu.Lock()
		w.seen = append(ids, w.seen...)
		w.mu.Unlock()
	}
	return err
}

// saveBody writes a body to the message's path, whole or not at all.
func saveBody(ctx context.Context, agent *api.Relay, m api.Message) (err error) {
	body, err := agent.Body(ctx, m.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp(filepath.Dir(m.Path), ".part-*")
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer os.Remove(f.Name())
	n, err := io.Copy(f, body)
	if err == nil && uint64(n) != uint64(m.Size) {
		err = fmt.Errorf("%d bytes of %s: %w", n, m.Size, top.ErrFailed)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", m.Path, err)
	}
	return os.Rename(f.Name(), m.Path)
}

func getVerb() tool.Verb {
	return tool.Verb{
		Name: "get", Summary: "print the body of a message that was received", Binary: true,
		Args:     []tool.Arg{{Name: "ID", Help: "of the message"}},
		Flags:    []tool.Flag{sockFlag()},
		Examples: []string{"top-relay get ID -o report.pdf", "top-relay get ID | mpv -"},
		Run: func(ctx context.Context, c *tool.Call) error {
			agent, err := dialRelay(c)
			if err != nil {
				return err
			}
			body, err := agent.Body(ctx, c.Arg(0))
			if err != nil {
				return err
			}
			defer body.Close()
			return c.Output(func(w io.Writer) error {
				_, err := io.Copy(w, body)
				return err
			})
		},
	}
}
