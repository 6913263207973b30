package bus

import (
	"crypto/tls"
	"os"
	"strconv"

	"github.com/nats-io/nats.go"
)

// WithTLS secures the connection to an existing server with t. A tls:// URL without it uses
// the certificate authorities of the system.
func WithTLS(t *tls.Config) AccessOption {
	return forAccess(func(c *config) {
		if t == nil {
			c.bad("WithTLS", "nil", "give a configuration; a tls:// URL alone uses the system's authorities")
			return
		}
		c.addAccess("WithTLS", nats.Secure(t))
	})
}

// WithUser identifies the bus by a user name and a password.
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

// WithCredentials identifies the bus by a NATS credentials file. The file is read at each
// connect.
func WithCredentials(file string) AccessOption {
	return forAccess(func(c *config) {
		if _, err := os.Stat(file); err != nil {
			c.bad("WithCredentials", strconv.Quote(file), err.Error())
		}
		c.addAccess("WithCredentials", nats.UserCredentials(file))
	})
}

// WithNKey identifies the bus by an NKey. seedFile is the file with its seed.
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

// authConfig is how the bus identifies itself to an existing server.
type authConfig struct {
	credentials []credential  // in the order in which they were given
	options     []nats.Option // made of credentials by check
}

// credential is one way to identify the bus, or to secure its connection.
type credential struct {
	name    string // of the option
	option  nats.Option
	fromEnv bool
	errs    []error // what is wrong with it, where it comes from the environment
}

func (c *config) addAccess(name string, o nats.Option) {
	c.auth.credentials = append(c.auth.credentials, credential{name: name, option: o})
}

// addFromEnv adds the credentials of o. They count only for an existing server, and whether
// there is one is known when all options are applied.
func (c *config) addFromEnv(o Option) {
	alone := &config{env: c.env}
	o.configure(alone)
	for i := range alone.auth.credentials {
		alone.auth.credentials[i].fromEnv = true
	}
	c.auth.credentials = append(c.auth.credentials, alone.auth.credentials...)
	c.auth.credentials = append(c.auth.credentials, credential{fromEnv: true, errs: alone.errs})
}

// checkCredentials makes connection options of the credentials.
func (c *config) checkCredentials() {
	for _, cr := range c.auth.credentials {
		switch {
		case c.server.url != "":
			c.errs = append(c.errs, cr.errs...)
			if cr.option != nil {
				c.auth.options = append(c.auth.options, cr.option)
			}
		case !cr.fromEnv:
			c.bad(cr.name, "…", "identifies the bus to an existing server, but none is named; add WithURL, or protect the embedded server's port with WithServerOptions")
		}
	}
}
