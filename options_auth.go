package bus

import (
	"crypto/tls"
	"os"
	"strconv"

	"github.com/nats-io/nats.go"
)

// WithTLS secures the connection to an existing server with t. A tls:// URL without it uses
// the certificate authorities of the system.
func WithTLS(t *tls.Config) ConnectOption {
	return forConnect(func(c *config) {
		if t == nil {
			c.bad("WithTLS", "nil", "give a configuration; a tls:// URL alone uses the system's authorities")
			return
		}
		c.addAccess("WithTLS", nats.Secure(t))
	})
}

// WithUser identifies the bus by a user name and a password.
func WithUser(user, password string) ConnectOption {
	return forConnect(func(c *config) {
		if user == "" {
			c.bad("WithUser", `""`, "the user is empty")
		}
		c.addAccess("WithUser", nats.UserInfoHandler(func() (string, string) { return user, password }))
	})
}

// WithToken identifies the bus by a token.
func WithToken(token string) ConnectOption {
	return forConnect(func(c *config) {
		if token == "" {
			c.bad("WithToken", `""`, "the token is empty")
		}
		c.addAccess("WithToken", nats.TokenHandler(func() string { return token }))
	})
}

// WithCredentials identifies the bus by a NATS credentials file. The file is read at each
// connect.
func WithCredentials(file string) ConnectOption {
	return forConnect(func(c *config) {
		if _, err := os.Stat(file); err != nil {
			c.bad("WithCredentials", strconv.Quote(file), err.Error())
		}
		c.addAccess("WithCredentials", nats.UserCredentials(file))
	})
}

// WithNKey identifies the bus by an NKey. seedFile is the file with its seed.
func WithNKey(seedFile string) ConnectOption {
	return forConnect(func(c *config) {
		o, err := nats.NkeyOptionFromSeed(seedFile)
		if err != nil {
			c.bad("WithNKey", strconv.Quote(seedFile), err.Error())
			return
		}
		c.addAccess("WithNKey", o)
	})
}
