package carry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"html"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"top/lib/top"
)

// CoverOf makes a cover of what an operator says: a directory of files, whose
// listings are not shown, or the URL of another site, of http or https, for which
// the exit then stands as any reverse proxy. Empty is nil: the small site.
func CoverOf(text string, log *slog.Logger) (http.Handler, error) {
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "://") {
		if info, err := os.Stat(text); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("cover %q (give a directory, or an http or https URL): %w", text, top.ErrUsage)
		}
		return http.FileServer(unlisted{http.Dir(text)}), nil
	}
	to, err := url.Parse(text)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("cover %q (give a directory, or an http or https URL): %w", text, top.ErrUsage)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}, nil
}

// unlisted is a directory whose folders are only seen through their index.html.
type unlisted struct{ http.FileSystem }

func (u unlisted) Open(name string) (http.File, error) {
	f, err := u.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		var index http.File
		if index, err = u.FileSystem.Open(path.Join(name, "index.html")); err == nil {
			index.Close()
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// words of the small site, by what they are for.
var words = map[string][]string{
	"name":   {"Linden", "Harbour", "Quarry", "Juniper", "Copper", "Meadow", "Lantern", "Orchard", "Granite", "Willow", "Ferry", "Saddle", "Thistle", "Cedar", "Mill", "Beacon"},
	"trade":  {"Joinery", "Bakery", "Ceramics", "Cycles", "Books", "Gardens", "Instruments", "Weaving", "Roasters", "Letterpress", "Tiles", "Optics", "Upholstery", "Boats", "Clocks", "Glass"},
	"first":  {"A small workshop, open three days a week.", "Family business in the second generation.", "We make and mend, mostly to order.", "Two people, one bench, no hurry.", "Open by appointment; the kettle is always on.", "What we sell we have made ourselves."},
	"second": {"The shop is closed for the season and opens again in spring.", "A new site with pictures is on its way.", "Orders are taken at the counter and by telephone.", "Deliveries go out on Thursdays.", "Repairs take about two weeks.", "Ask for the price list, it is one page long."},
	"face":   {"Georgia, serif", "Verdana, sans-serif", "system-ui, sans-serif", "Palatino, serif", "Helvetica, sans-serif"},
	"paper":  {"#fdfaf3", "#f4f7f5", "#ffffff", "#f6f3f7", "#f2f4f8"},
	"ink":    {"#2b2a28", "#20302a", "#22222a", "#3a2f2a", "#1f2a38"},
}

// site is the small site of a key: always the same one for it.
func site(key [32]byte) http.Handler {
	pick := func(what string) string {
		mac := hmac.New(sha256.New, key[:])
		mac.Write([]byte("site " + what))
		n := new(big.Int).SetBytes(mac.Sum(nil))
		return words[what][n.Mod(n, big.NewInt(int64(len(words[what])))).Int64()]
	}
	title := html.EscapeString(pick("name") + " " + pick("trade"))
	page := "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>" + title +
		"</title>\n<style>body{font-family:" + pick("face") + ";background:" + pick("paper") + ";color:" + pick("ink") + ";max-width:36em;margin:4em auto;padding:0 1em}</style>\n</head>\n<body>\n<h1>" +
		title + "</h1>\n<p>" + pick("first") + "</p>\n<p>" + pick("second") + "</p>\n</body>\n</html>\n"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		case r.URL.Path != "/" && r.URL.Path != "/index.html":
			http.NotFound(w, r)
		default:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Cache-Control", "max-age=3600")
			fmt.Fprint(w, page)
		}
	})
}

// SelfMade makes a certificate for a name, or an address, with a new key, valid for
// 90 days from yesterday. Empty is "localhost".
func SelfMade(name string) (tls.Certificate, error) {
	if name == "" {
		name = "localhost"
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %v: %w", err, top.ErrFailed)
	}
	serial := make([]byte, 16)
	rand.Read(serial)
	from := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	form := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(name); ip != nil {
		form.IPAddresses = []net.IP{ip}
	} else {
		form.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate for %q: %v: %w", name, err, top.ErrUsage)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// PinOfCertificate is PinOf the first of a chain.
func PinOfCertificate(c tls.Certificate) ([32]byte, error) {
	if len(c.Certificate) == 0 {
		return [32]byte{}, fmt.Errorf("pin of no certificate: %w", top.ErrUsage)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return [32]byte{}, fmt.Errorf("pin: %v: %w", err, top.ErrInvalid)
	}
	return PinOf(leaf), nil
}
