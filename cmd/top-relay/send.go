package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"path/filepath"
	"strings"

	"top/lib/api"
	"top/lib/daemon"
	"top/lib/tool"
	"top/lib/top"
)

func sendVerb() tool.Verb {
	return tool.Verb{
		Name: "send", Summary: "send a text or a file to somebody",
		Doc: `Sends FILE, standard input or --text, of any size. Exit 0 means that the state of --wait is
reached, which is somebody's signed word: "stored" is the relay's, after its disk has it;
"delivered" and "read" are the recipient's. If this command is killed after it printed the
id, the agent goes on; repeating it with the same --id sends once.

Relays keep a message for a recipient who is offline as long as --hold says; longer costs
more. It is paid when it is delivered, and what was set aside for it comes back otherwise.`,
		Args: []tool.Arg{{Name: "FILE", Help: "what to send; - or nothing is stdin", Optional: true}},
		Flags: []tool.Flag{
			{Name: "to", Help: "an address, or a contact's name"},
			{Name: "text", Help: "send this text"},
			{Name: "name", Help: "name of the file, for the recipient (default: that of FILE)"},
			{Name: "lines", Kind: tool.Bool, Help: "every line is a message of its own"},
			{Name: "hold", Kind: tool.Duration, Default: "1d", Help: "how long relays keep it"},
			{Name: "max-spend", Kind: tool.Amount, Help: "most that it may cost, TOP (default: what the budget allows)"},
			{Name: "id", Help: "name this wish: the same id twice has the effect of one (default: drawn, and printed)"},
			{Name: "wait", Default: "stored", Help: "until it is queued, stored, delivered or read"},
			sockFlag(),
		},
		Records:  []string{"sent"},
		Examples: []string{"top-relay send --to bob report.pdf", "top-relay send --to bob --text 'see you at six'", "top-relay send --to bob - < any-file", "tail -f app.log | top-relay send --to bob --lines"},
		Run:      send,
	}
}

func send(ctx context.Context, c *tool.Call) error {
	if c.String("to") == "" {
		return top.Errorf(top.Usage, "to whom? (--to ADDRESS or a contact's name)")
	}
	to, err := daemon.Resolve(c, c.String("to"))
	if err != nil {
		return err
	}
	agent, err := dialRelay(c)
	if err != nil {
		return err
	}
	q := api.SendRequest{
		ID: c.String("id"), To: to, Name: c.String("name"), Hold: c.Duration("hold"), MaxSpend: c.Amount("max-spend"),
		Lines: c.Bool("lines"), Wait: c.String("wait"),
	}
	body, err := bodyOf(c, &q)
	if err != nil {
		return err
	}
	defer body.Close()
	if q.ID == "" {
		q.ID = rand.Text()[:16]
		c.Info("id %s", q.ID)
	}
	var last api.Message
	var bar *tool.Progress
	err = agent.Send(ctx, q, body, func(m api.Message) error {
		if m.Error != "" && m.Error != last.Error && m.State == "queued" {
			c.Info("waiting: %s", m.Error)
		}
		if !q.Lines && m.State != last.State && (m.State == "stored" && q.Wait != "stored" || m.State == "delivered" && q.Wait == "read") {
			c.Info("%s; waits until it is %s", m.State, q.Wait)
		}
		if m.Size > 1<<20 && bar == nil {
			bar = c.Progress("KiB stored", int(m.Size>>10))
		}
		if bar != nil {
			bar.At(int(m.Done >> 10))
		}
		last = m
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.Emit(last, "%s", last); err != nil {
		return err
	}
	switch last.State {
	case "expired":
		return top.Errorf(top.Timeout, "message %s expired before it was delivered (send it with a longer --hold)", last.ID)
	case "refused":
		return top.Errorf(top.Denied, "message %s was refused by the recipient", last.ID)
	case "failed":
		return top.Errorf(cmp.Or(last.Failure, top.Failed), "message %s was not sent: %s", last.ID, last.Error)
	}
	return nil
}

// bodyOf is what is sent, and its name.
func bodyOf(c *tool.Call, q *api.SendRequest) (io.ReadCloser, error) {
	if c.Set("text") {
		if c.Arg(0) != "" {
			return nil, top.Errorf(top.Usage, "--text and a file: want one of them")
		}
		return io.NopCloser(strings.NewReader(c.String("text"))), nil
	}
	if f := c.Arg(0); f != "" && f != "-" && q.Name == "" && !q.Lines {
		q.Name = filepath.Base(f)
	}
	return c.Input(c.Arg(0))
}
