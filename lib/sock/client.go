package sock

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"

	"top/lib/top"
)

// A Client calls a daemon's routes. It dials when first used and keeps no
// connection that it does not need.
type Client struct {
	http    *http.Client
	offline string // what to say when nobody answers
	answer  int    // bytes that one answer may hold outside a stream
	record  int    // bytes that one record of a stream may hold
}

// What an answer of one's own daemon may hold, unless Limit says otherwise.
const (
	maxAnswer = 64 << 20
	maxRecord = 8 << 20
)

// maxRetry is the longest that a caller is asked to wait: the one who asks may be
// a stranger.
const maxRetry = time.Hour

// Dial is a client of the socket at path. start is the command that starts the
// daemon, for the error when nobody answers: "top-chain serve".
func Dial(path, start string) *Client {
	return DialFunc(func(ctx context.Context) (net.Conn, error) {
		if err := fits(path); err != nil {
			return nil, err
		}
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if errors.Is(err, fs.ErrPermission) {
			return nil, top.Errorf(top.Denied, "%s belongs to another user (its owner is: ls -l %[1]s)", path)
		}
		return c, err
	}, fmt.Sprintf("no answer on %s (start it: %s)", path, start))
}

// DialFunc is a client over connections that dial makes. offline is the message
// when it cannot and does not say why with a top.Error of its own.
func DialFunc(dial func(context.Context) (net.Conn, error), offline string) *Client {
	return &Client{offline: offline, answer: maxAnswer, record: maxRecord, http: &http.Client{Transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        time.Minute,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}}}
}

// Limit bounds, in bytes, what one answer and one record of a stream may hold:
// for a client that asks strangers. It is called before the first use.
func (c *Client) Limit(answer, record int) *Client {
	c.answer, c.record = answer, record
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get reads path into out.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, "GET", path, nil, out)
}

// Post sends in as JSON and reads the answer into out; nil skips either.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, "POST", path, in, out)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, int64(c.answer)+1))
	if err != nil {
		return c.lost(ctx, err)
	}
	if len(b) > c.answer {
		return fmt.Errorf("the answer of %s is longer than %d KiB: %w", path, c.answer>>10, top.ErrInvalid)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer of %s: %v: %w", path, err, top.ErrInvalid)
	}
	return nil
}

// Stream calls each with every record of an NDJSON answer, until the answer
// ends (nil), each fails, or ctx ends.
func (c *Client) Stream(ctx context.Context, method, path string, in any, each func(json.RawMessage) error) error {
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	return c.records(ctx, path, res, each)
}

// Upload posts body as it is and calls each with every record of the answer, as
// Stream does.
func (c *Client) Upload(ctx context.Context, path string, body io.Reader, each func(json.RawMessage) error) error {
	res, err := c.ask(ctx, "POST", path, body)
	if err != nil {
		return err
	}
	return c.records(ctx, path, res, each)
}

// Duplex posts body as it is and reads the answer as it is, both at once. The caller
// closes it.
func (c *Client) Duplex(ctx context.Context, path string, body io.Reader) (io.ReadCloser, error) {
	res, err := c.ask(ctx, "POST", path, body)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Open reads an answer as it is. The caller closes it.
func (c *Client) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	res, err := c.ask(ctx, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// records reads an NDJSON answer to its end.
func (c *Client) records(ctx context.Context, path string, res *http.Response, each func(json.RawMessage) error) error {
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, min(64<<10, c.record)), c.record)
	lines.Split(wholeLine)
	for lines.Scan() {
		line := bytes.Clone(lines.Bytes())
		if err := recordError(line); err != nil {
			return err
		}
		if err := each(line); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("a record of %s is longer than %d KiB: %w", path, c.record>>10, top.ErrInvalid)
	} else if err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// wholeLine cuts records. What follows the last newline was torn by a daemon that
// died, and is no record.
func wholeLine(b []byte, end bool) (int, []byte, error) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return i + 1, b[:i], nil
	}
	if end {
		return len(b), nil, nil
	}
	return 0, nil, nil
}

func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("call %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	return c.ask(ctx, method, path, body)
}

// ask sends a request and gives an answer of status 200, or the error in it.
func (c *Client) ask(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, method, "http://top"+path, body)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", path, err)
	}
	res, err := c.http.Do(q)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if err := recordError(b); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("call %s: status %d", path, res.StatusCode)
}

// recordError is the error that a body or a record carries, if it is one (K3).
func recordError(b []byte) error {
	if !bytes.HasPrefix(b, []byte(`{"error":{`)) {
		return nil
	}
	var f Failure
	if json.Unmarshal(b, &f) != nil || f.Error == nil {
		return nil
	}
	ms := max(0, min(f.Error.RetryMs, maxRetry.Milliseconds()))
	return &top.Error{Kind: f.Error.Kind, Message: f.Error.Message, RetryAfter: time.Duration(ms) * time.Millisecond}
}

// lost turns a transport's error into a kind: the caller's own cancelling and
// deadline stay what they are.
func (c *Client) lost(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", top.ErrTimeout, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	}
	var why *top.Error
	if errors.As(err, &why) {
		return why
	}
	return &top.Error{Kind: top.Offline, Message: c.offline}
}
