package vpn

import (
	"crypto/tls"
	"net/http"

	"top/lib/carry"
	"top/lib/top"
)

// Hidden says how an exit is met by who must not be seen to use one.
type Hidden struct {
	Listen      string // host:port of TCP and UDP, ":443"; "" is nowhere
	QUIC, WSS   bool   // neither is both
	ServerName  string
	Certificate tls.Certificate // zero is self-made
	Cover       http.Handler    // what everybody else sees; nil is a small site
}

// A door is one carriage that is open.
type door struct {
	kind   string
	port   uint16
	server string
}

// hide opens the web server behind which datagrams are carried.
func (e *Exit) hide() error {
	h := e.cfg.Hidden
	if h.Listen == "" {
		return nil
	}
	kinds := []carry.Kind{}
	if h.QUIC || !h.WSS {
		kinds = append(kinds, carry.QUIC)
	}
	if h.WSS || !h.QUIC {
		kinds = append(kinds, carry.WSS)
	}
	srv, err := carry.Listen(carry.ServerConfig{Addr: h.Listen, Kinds: kinds, Key: e.key.Public(), Certificate: h.Certificate, ServerName: h.ServerName, Cover: h.Cover, Pad: true, Log: e.log})
	if err != nil {
		return err
	}
	e.site = srv
	for _, k := range kinds {
		e.hidden = append(e.hidden, door{string(k), srv.Addr().Port(), h.ServerName})
	}
	return nil
}

// accept takes what is carried, until the exit ends.
func (e *Exit) accept() error {
	if e.site == nil {
		return nil
	}
	e.group.Go(func() error {
		for {
			c, err := e.site.Accept(e.ctx)
			if err != nil {
				return nil
			}
			e.group.Go(func() error {
				defer c.Close()
				e.ways.Carry(c)
				return nil
			})
		}
	})
	if err := e.site.Run(e.ctx); err != nil && e.ctx.Err() == nil {
		return top.Errorf(top.Failed, "hidden carriage: %v", err)
	}
	return nil
}
