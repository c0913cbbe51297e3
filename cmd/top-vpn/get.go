package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"top/lib/api"
	"top/lib/tool"
	"top/lib/top"
)

func getVerb() tool.Verb {
	return tool.Verb{
		Name: "get", Summary: "fetch a page through the tunnel", Binary: true,
		Doc: `Fetches one page of http or https through the tunnel that is up, whether it is a proxy or an
interface, and prints it as it came. The exit asks for the name and connects; nothing of it is
asked beside the tunnel, whatever --exclude says, and while there is none nothing is sent. Of a
tunnel with an interface it is run where that is, in its network namespace.`,
		Args: []tool.Arg{{Name: "URL", Help: "http://… or https://…"}},
		Flags: []tool.Flag{
			{Name: "insecure", Kind: tool.Bool, Help: "take any certificate, such as one that a server made itself"}, sockFlag(),
		},
		Examples: []string{"top-vpn get https://example.org/ -o page.html", "top-vpn get http://example.org/ | wc -c"},
		Run:      get,
	}
}

func get(ctx context.Context, c *tool.Call) error {
	u, err := url.Parse(c.Arg(0))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return top.Errorf(top.Usage, "%q: want http://… or https://…", c.Arg(0))
	}
	v, err := dialVPN(c)
	if err != nil {
		return err
	}
	line, err := lineOf(ctx, v)
	if err != nil {
		return err
	}
	line.TLSClientConfig, line.DisableCompression = &tls.Config{InsecureSkipVerify: c.Bool("insecure")}, true
	defer line.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, "GET", u.String(), nil)
	if err != nil {
		return top.Errorf(top.Usage, "%q: %v", c.Arg(0), err)
	}
	q.Header.Set("User-Agent", "top-vpn/"+top.Version)
	r, err := (&http.Client{Transport: line}).Do(q)
	if err != nil {
		return unfetched(ctx, err)
	}
	defer r.Body.Close()
	switch {
	case r.StatusCode == http.StatusNotFound || r.StatusCode == http.StatusGone:
		return top.Errorf(top.NotFound, "%s: %s", u.Redacted(), r.Status)
	case r.StatusCode >= 400:
		return top.Errorf(top.Failed, "%s: %s", u.Redacted(), r.Status)
	}
	return c.Output(func(w io.Writer) error {
		if _, err := io.Copy(w, r.Body); err != nil {
			return unfetched(ctx, err)
		}
		return nil
	})
}

// lineOf is the way into the tunnel: its proxy, or else its interface, by which names are
// asked too. Whatever the routes say, nothing goes beside it.
func lineOf(ctx context.Context, v *api.VPN) (*http.Transport, error) {
	s, err := v.Status(ctx)
	switch {
	case err != nil:
		return nil, err
	case s.Role != "client":
		return nil, top.Errorf(top.Usage, "here runs an exit, not a tunnel (start one in another home: top-vpn up)")
	case s.Socks == "" && (s.Interface == "" || len(s.Hops) == 0):
		return nil, top.Errorf(top.Offline, "the tunnel is not up: %s", s.State)
	case s.Socks != "":
		return &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: s.Socks})}, nil
	}
	bound := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		bad := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, s.Interface)
		})
		return cmp.Or(err, bad)
	}}
	ask := bound
	if dns := s.Hops[len(s.Hops)-1].DNS; len(dns) > 0 {
		bound.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return ask.DialContext(ctx, network, net.JoinHostPort(dns[0], "53"))
		}}
	}
	return &http.Transport{DialContext: bound.DialContext}, nil
}

// unfetched gives what kept a page from coming its kind.
func unfetched(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		return top.Errorf(top.Denied, "%v (a certificate that a server made itself: --insecure)", err)
	}
	var asked *url.Error
	if _, why, ok := strings.Cut(err.Error(), ": unknown error "); ok && errors.As(err, &asked) { // so the proxy's answer is read
		return top.Errorf(top.Offline, "fetch %s: %s, says the far end of the tunnel", asked.URL, why)
	}
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENETUNREACH) {
		return top.Errorf(top.Offline, "fetch: %v (the tunnel does not lead there: its interface is in another network namespace, or --include and --exclude leave this out)", err)
	}
	return fmt.Errorf("fetch: %v: %w", err, top.ErrOffline)
}
