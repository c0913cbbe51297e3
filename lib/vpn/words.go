package vpn

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"

	"top/lib/api"
	"top/lib/carry"
	"top/lib/policy"
	"top/lib/wg"
)

// Policy is what an exit serves: lib/policy's.
type Policy = policy.Policy

// ParsePolicy reads the text of one.
func ParsePolicy(text string) (*Policy, error) { return policy.Parse(text) }

// CoverOf is what strangers see of hidden carriage: a directory, the URL of a site, or
// with "" a small site.
func CoverOf(text string, log *slog.Logger) (http.Handler, error) { return carry.CoverOf(text, log) }

// ExitOf is how --via names the exit that a line tells of: a record of type exit, of
// which the address counts, or anything else as it is.
func ExitOf(line string) string {
	var e api.VPNExit
	if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &e) == nil && e.Addr != "" {
		a, err := ParseAddress(e.Addr)
		if err != nil {
			return line
		}
		a.Node = e.Node
		return a.String()
	}
	return line
}

// ClientKey is the public key of a stock client and, when it is made here, the private
// one for its file; text is a key that the client made itself.
func ClientKey(text string) (public wg.Key, secret string, err error) {
	if text != "" {
		public, err = wg.ParseKey(text)
		return public, "", err
	}
	k := wg.NewPrivate()
	return k.Public(), k.Secret(), nil
}
