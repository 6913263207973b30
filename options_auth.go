package bus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/switchover"
)

// accessOption is an option of Connect, New and SwitchTo: how the bus identifies itself to an
// existing server. New takes it without WithURL where there is a store directory that SwitchTo can
// move: then it counts from the move on.
type accessOption struct{ anywhere }

// OnSwitch implements switchover.Option.
func (o accessOption) OnSwitch(s *switchover.Settings) { s.Access = append(s.Access, o) }

func forAccess(f func(*config)) accessOption { return accessOption{anywhere{f}} }

// WithTLS secures the connection to an existing server with t. A tls:// URL without it uses
// the certificate authorities of the system.
func WithTLS(t *tls.Config) accessOption { //nolint:revive // callers only pass it on
	return forAccess(func(c *config) {
		if t == nil {
			c.bad("WithTLS", "nil", "give a configuration; a tls:// URL alone uses the system's authorities")
			return
		}
		c.addAccess("WithTLS", "", nats.Secure(t))
	})
}

// WithUser identifies the bus by a user name and a password to an existing server: that of
// Connect or WithURL, or the one that SwitchTo has moved the streams of WithStoreDir to. So a
// program can give it to New before the move. It does not protect the port of WithListen.
func WithUser(user, password string) accessOption { //nolint:revive // callers only pass it on
	return forAccess(func(c *config) {
		if user == "" {
			c.bad("WithUser", `""`, "the user is empty")
		}
		c.addAccess("WithUser", fmt.Sprintf("user %q", user), nats.UserInfoHandler(func() (string, string) { return user, password }))
	})
}

// WithToken identifies the bus by a token.
func WithToken(token string) accessOption { //nolint:revive // callers only pass it on
	return forAccess(func(c *config) {
		if token == "" {
			c.bad("WithToken", `""`, "the token is empty")
		}
		c.addAccess("WithToken", "the token", nats.TokenHandler(func() string { return token }))
	})
}

// WithCredentials identifies the bus by a NATS credentials file. The file is read at each
// connect. A "~" at the beginning of the name is not replaced, and refused.
func WithCredentials(file string) accessOption { //nolint:revive // callers only pass it on
	return forAccess(func(c *config) {
		if c.checkSecretFile("WithCredentials", file) {
			c.addAccess("WithCredentials", fmt.Sprintf("the user of %q", file), nats.UserCredentials(file))
		}
	})
}

// WithNKey identifies the bus by an NKey. seedFile is the file with its seed. A "~" at the
// beginning of the name is not replaced, and refused.
func WithNKey(seedFile string) accessOption { //nolint:revive // callers only pass it on
	return forAccess(func(c *config) {
		if !c.checkSecretFile("WithNKey", seedFile) {
			return
		}
		o, err := nats.NkeyOptionFromSeed(seedFile)
		if err != nil {
			c.bad("WithNKey", strconv.Quote(seedFile), "holds no NKey seed of a user")
			return
		}
		c.addAccess("WithNKey", fmt.Sprintf("the user of %q", seedFile), o)
	})
}

// secretText matches what is a key rather than a file name: an NKey seed, a JWT, and anything with
// 40 letters and digits in a row or with a line break.
var secretText = regexp.MustCompile(`[\r\n]|\bS[ACNOUX][A-Z2-7]{20,}|\beyJ[A-Za-z0-9_-]{10,}|[A-Za-z0-9+=]{40,}|-----BEGIN`)

// checkSecretFile records what is wrong with the name of a file that holds a secret, and
// reports whether the name can be used. If the secret itself was given, the error does not
// show it.
func (c *config) checkSecretFile(option, name string) bool {
	_, err := os.Stat(name)
	switch {
	case err == nil: // also if its name has a long hash
		return c.checkPath(option, name)
	case secretText.MatchString(name):
		c.bad(option, "…", "names no file and looks like a key; write the key to a file, and give the name of that")
	case c.checkPath(option, name):
		c.bad(option, strconv.Quote(name), fileReason(err))
	}
	return false
}

// checkPath refuses a path that begins with "~", and reports whether the path can be used.
func (c *config) checkPath(option, path string) bool {
	if path != "~" && !strings.HasPrefix(path, "~/") {
		return true
	}
	c.bad(option, strconv.Quote(path), `begins with "~", which only shells replace; write the whole path, in a program with os.UserHomeDir()`)
	return false
}

// fileReason is the text of an error about a file whose name is shown already.
func fileReason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return err.Error()
}
