package bus

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
)

// WithURL has New use the server at u ("nats://host:4222", several separated by
// commas) instead of an embedded one. An empty u means embedded, so that it can
// come straight from a configuration.
func WithURL(u string) Option {
	return option(func(c *config) {
		if u != "" {
			c.checkURL("WithURL", u)
		}
		c.url = u
	})
}

func (c *config) checkURL(option, list string) {
	for u := range strings.SplitSeq(list, ",") {
		if reason := urlProblem(strings.TrimSpace(u)); reason != "" {
			c.bad(option, strconv.Quote(link.Redact(list)), reason)
			return
		}
	}
}

func urlProblem(u string) string {
	if u == "" {
		return `is empty; use "nats://host:4222"`
	}
	if !strings.Contains(u, "://") {
		u = "nats://" + u
	}
	p, err := url.Parse(u)
	if err != nil || p.Hostname() == "" {
		return `is not a URL; use "nats://host:4222"`
	}
	switch p.Scheme {
	case "nats", "tls", "ws", "wss":
		return ""
	}
	return fmt.Sprintf("has the scheme %q; use nats, tls, ws or wss", p.Scheme)
}

// WithTLS secures the connection to an existing server with t. A tls:// URL
// alone uses the system's certificate authorities.
func WithTLS(t *tls.Config) AccessOption {
	return forAccess(func(c *config) {
		if t == nil {
			c.bad("WithTLS", "nil", "give a configuration; a tls:// URL alone uses the system's authorities")
			return
		}
		c.addAccess("WithTLS", nats.Secure(t))
	})
}

// WithUser identifies the bus by name and password.
func WithUser(user, password string) AccessOption {
	return forAccess(func(c *config) {
		if user == "" {
			c.bad("WithUser", `""`, "the user is empty")
		}
		c.addAccess("WithUser", nats.UserInfoHandler(func() (string, string) { return user, password }))
	})
}

// WithToken identifies the bus by a token.
func WithToken(token string) AccessOption {
	return forAccess(func(c *config) {
		if token == "" {
			c.bad("WithToken", `""`, "the token is empty")
		}
		c.addAccess("WithToken", nats.TokenHandler(func() string { return token }))
	})
}

// WithCredentials identifies the bus by a NATS credentials file, which is read
// at each connect.
func WithCredentials(file string) AccessOption {
	return forAccess(func(c *config) {
		if _, err := os.Stat(file); err != nil {
			c.bad("WithCredentials", strconv.Quote(file), err.Error())
		}
		c.addAccess("WithCredentials", nats.UserCredentials(file))
	})
}

// WithNKey identifies the bus by the NKey whose seed is in seedFile.
func WithNKey(seedFile string) AccessOption {
	return forAccess(func(c *config) {
		o, err := nats.NkeyOptionFromSeed(seedFile)
		if err != nil {
			c.bad("WithNKey", strconv.Quote(seedFile), err.Error())
			return
		}
		c.addAccess("WithNKey", o)
	})
}

// credential is one way to identify the bus, or to secure its connection.
type credential struct {
	name    string // of the option
	option  nats.Option
	fromEnv bool
	errs    []error // what is wrong with it, where it comes from the environment
}

func (c *config) addAccess(name string, o nats.Option) {
	c.credentials = append(c.credentials, credential{name: name, option: o})
}

// addFromEnv adds what o does, which counts only for an existing server: whether
// there is one is known when all options are.
func (c *config) addFromEnv(o Option) {
	alone := &config{from: c.from}
	o.configure(alone)
	for i := range alone.credentials {
		alone.credentials[i].fromEnv = true
	}
	c.credentials = append(c.credentials, alone.credentials...)
	c.credentials = append(c.credentials, credential{fromEnv: true, errs: alone.errs})
}

// checkCredentials makes the access options of what was given.
func (c *config) checkCredentials() {
	for _, cr := range c.credentials {
		switch {
		case c.url != "":
			c.errs = append(c.errs, cr.errs...)
			if cr.option != nil {
				c.access = append(c.access, cr.option)
			}
		case !cr.fromEnv:
			c.bad(cr.name, "…", "identifies the bus to an existing server, but none is named; add WithURL, or protect the embedded server's port with WithServerOptions")
		}
	}
}
