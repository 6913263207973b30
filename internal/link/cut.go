package link

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// flushBeforeCut is how long Cut waits for the server without a deadline in its context.
const flushBeforeCut = 5 * time.Second

// Cut ends the connection and dials nobody until Lead, which must follow. The server has
// processed what Publish was called with before. It may notice the end of a connection before it
// has processed what had come on it, so Publish waits while Cut flushes. What is published
// later waits in nats.go's buffer.
// Requests to the server itself fail, others wait on. A cut is not reported as a lost
// connection. Cut waits for the end of another one, until ctx ends. On a closed link it
// returns nats.ErrConnectionClosed.
func (l *Link) Cut(ctx context.Context) error {
	select {
	case l.moving <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := l.cut(ctx)
	if err != nil {
		<-l.moving
	}
	return err
}

func (l *Link) cut(ctx context.Context) error {
	defer l.sending.Release()
	if err := l.sending.Hold(ctx); err != nil {
		return err
	}
	for l.nc.IsConnected() {
		err := l.Flush(ctx, flushBeforeCut)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrDisconnected) {
			return err
		}
	}
	l.dialer.cut()
	if l.nc.IsConnected() {
		l.quiet.Store(true)
	}
	return l.disconnect()
}

// disconnect ends the connection, or the attempt to connect. The dialer is cut, so nothing
// comes back until it is led.
func (l *Link) disconnect() error {
	connected := l.nc.IsConnected()
	err := l.nc.ForceReconnect()
	l.dialer.drop()
	if connected { // else they wait in the buffer, and are sent
		l.requests.lose(false)
	}
	return err
}

// Lead ends a Cut: the connection comes back at a target. It returns nil when that has
// answered a ping. When ctx ends first it returns why, and the link goes on to dial the
// target, as after any loss. It never goes back by itself.
func (l *Link) Lead(ctx context.Context, to Target) error {
	defer func() { <-l.moving }()
	if to.InProcess == nil {
		l.denials.trusted.Store(false) // another server may have permissions
	}
	l.target = to
	err := l.pointTo(ctx, to)
	if err != nil {
		l.dialer.lead(to)
	}
	return err
}

// Target returns where the link leads. It must not be called from Lead on until that has
// returned.
func (l *Link) Target() Target { return l.target }

// replaceAccess sets in o how the connection identifies itself at the target. The dialer
// calls it on the goroutine of nats.go that dials, which holds the lock of the connection.
func (t Target) replaceAccess(o *nats.Options) error {
	o.User, o.Password, o.Token, o.Nkey = "", "", "", ""
	o.UserInfo, o.TokenHandler, o.SignatureCB, o.UserJWT = nil, nil, nil, nil
	o.Secure, o.TLSConfig, o.RootCAsCB, o.TLSCertCB = false, nil, nil, nil
	var errs []error
	for u := range strings.SplitSeq(t.URL, ",") {
		if u = strings.TrimSpace(u); strings.HasPrefix(u, "tls://") || strings.HasPrefix(u, "wss://") {
			errs = append(errs, nats.Secure()(o)) // nats.go does that itself only for the first connect
			break
		}
	}
	for _, set := range t.Access {
		errs = append(errs, set(o))
	}
	return errors.Join(errs...)
}
