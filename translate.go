package bus

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/sidestream"
)

// contextError returns the error of a call whose ctx has ended, with the cause of ctx if it
// has one.
func contextError(ctx context.Context) error {
	err := translate(ctx.Err())
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// opError adds to an error which call failed.
type opError struct {
	op  string // "Publish", or with the subject: "Publish \"shop.audit\""
	err error
}

func (e *opError) Error() string { return "bus: " + e.op + ": " + inner(e.err) }
func (e *opError) Unwrap() error { return e.err }

// opError translates err and adds which call of b failed, and about which subject unless
// that is empty.
func (b *Bus) opError(op, subject string, err error) error {
	if err == nil {
		return nil // before anything that costs
	}
	err = translate(err)
	switch _, named := errors.AsType[*opError](err); {
	case named:
		return err
	case subject != "":
		op = fmt.Sprintf("%s %.200q", op, subject)
	}
	if nc := b.core.Link.Conn(); !nc.IsConnected() && !nc.IsClosed() {
		err = fmt.Errorf("%w (the bus is disconnected from its server now)", err)
	}
	return &opError{op, err}
}

// translate turns what the layers below return into the errors above, keeping
// the original in the chain.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if failed, ok := err.(*jserr.Error); ok { //nolint:errorlint // what wraps one says more
		return streamError(failed.Stream, failed.Op, failed.Err)
	}
	if foreign, ok := err.(*sidestream.ForeignStreamError); ok { //nolint:errorlint // it is never wrapped
		return foreignStream(foreign)
	}
	switch large, isLarge := errors.AsType[*outlet.TooLargeError](err); {
	case errors.Is(err, outlet.ErrUnknown), errors.Is(err, outlet.ErrUnanswered), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err) // even if the connection is closed now
	case isLarge:
		return &PayloadError{Subject: large.Subject, Size: large.Size, Limit: large.Limit}
	case errors.Is(err, link.ErrShut), errors.Is(err, outlet.ErrEnded), errors.Is(err, lifecycle.ErrClosed),
		errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w (%v)", ErrClosed, err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w (%w)", ErrNoResponders, err)
	case errors.Is(err, outlet.ErrFull):
		return ErrBufferFull
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, link.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	default:
		return err
	}
}
