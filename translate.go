package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/consumer"
	"github.com/omnibus-go/bus/internal/jsapi"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/serverversion"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/streamdef"
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
	if old, ok := err.(*serverversion.Error); ok { //nolint:errorlint // it is never wrapped
		return &UnsupportedError{Call: old.Call, Level: old.Level, Version: old.Since.String(), Server: old.Server.Text, instead: old.Hint}
	}
	if refused, ok := errors.AsType[*link.RefusedError](err); ok {
		return refusedError(refused, errors.Is(err, outlet.ErrUnknown))
	}
	switch large, isLarge := errors.AsType[*outlet.TooLargeError](err); {
	case errors.Is(err, outlet.ErrUnknown), errors.Is(err, outlet.ErrUnanswered), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, consumer.ErrOutcomeUnknown):
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
	case errors.Is(err, jsapi.ErrNoLeader):
		return fmt.Errorf("%w: %w: %w; see that most of its servers run and reach each other, and give calls more time with WithTimeout", ErrTimeout, jsapi.ErrNoLeader, context.DeadlineExceeded)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: %w", ErrTimeout, context.DeadlineExceeded)
	default:
		return err
	}
}

// refusedError is the public form of e. unknown says that the message may have been stored.
func refusedError(e *link.RefusedError, unknown bool) error {
	public := &SubjectError{Subject: e.Subject, err: e.Err}
	switch {
	case e.Publish:
		public.Reason = "the server refuses messages to it: the user of this connection may not publish there"
		public.Hint = "allow the user to publish to it in the server's configuration, or connect as another user"
	case e.Inbox:
		public.Reason = "the server refuses the subscription to replies: the user of this connection may not subscribe there"
		public.Hint = "allow the user to subscribe to it, or give the prefix that the user may use with WithInboxPrefix; then reconnect"
	case errors.Is(e.Err, nats.ErrMaxSubscriptionsExceeded):
		public.Reason = "the server refuses the subscription: this connection has as many as it may have"
		public.Hint = "end subscriptions that are not needed, use one with a wildcard and a Mux, or raise max_subscriptions of the server"
	default:
		public.Reason = "the server refuses the subscription: the user of this connection may not subscribe to it"
		public.Hint = "allow the user to subscribe to it in the server's configuration, or connect as another user"
	}
	if unknown || e.Inbox && e.Sent {
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, public)
	}
	return public
}

// streamError makes the public error of a failed operation on a stream. It adds what to do
// if the server does not say so.
func streamError(name, op string, err error) *StreamError {
	e := &StreamError{Stream: name, Op: op, Err: err}
	e.Code, e.ErrorCode = jserr.Codes(err)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, nats.ErrNoResponders):
		e.Err = fmt.Errorf("%w: declare it with Bus.Stream (%v)", ErrStreamNotFound, err)
	case e.Code == 0:
		e.Err = translate(err)
	case remedy(e.ErrorCode, err) != "":
		e.Err = fmt.Errorf("%w; %s", err, remedy(e.ErrorCode, err))
	}
	return e
}

// remedy says what to do about an error of the server with this number. Some numbers are about
// several things, which the text of the error tells apart.
func remedy(number int, err error) string {
	switch text := err.Error(); {
	case number == jserr.StoreFailed && strings.Contains(text, "per subject"):
		return "the subject has as many messages as the stream keeps of one subject: let its consumers handle some, delete some with Stream.Purge, raise MaxMsgsPerSubject, or let the stream discard the oldest of the subject (Discard: DiscardOld, with AllowShrink)"
	case number == jserr.InvalidConfig && strings.Contains(text, "no-ack"):
		return "these are subjects of the server itself: name those of the program, such as \"shop.>\""
	case number == jserr.InvalidConfig && strings.Contains(text, "duplicates window"):
		return "lower StreamConfig.Duplicates, or raise duplicate_window in the limits of the server's JetStream"
	}
	return remedies[number]
}

// connectionError is the public form of why there is no connection. It says what to do. who is as whom
// the bus connects, see config.identity.
func connectionError(err error, who string) error {
	switch err = translate(err); {
	case errors.Is(err, nats.ErrMaxConnectionsExceeded):
		return fmt.Errorf("%w; close connections that nobody needs, a program needs one Bus, or raise max_connections of the server", err)
	case errors.Is(err, nats.ErrMaxAccountConnectionsExceeded):
		return fmt.Errorf("%w; close connections that nobody needs, a program needs one Bus, or raise the account's limit of connections", err)
	case who != "" && errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("%w; the server refused %s: see that this is right, and that the server knows it", err, who)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("%w; the server has no TLS: use a nats:// URL without WithTLS, or set up TLS in the server", err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("%w; see that the server runs, and that the host and the port are right", err)
	case errors.Is(err, ErrTimeout):
		return fmt.Errorf("%w; see that a NATS server listens there, and that nothing on the way holds the connection up", err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("%w; identify the bus with WithUser, WithToken, WithCredentials, WithNKey or a certificate in WithTLS (FromEnv: OMNIBUS_USER and OMNIBUS_PASSWORD, OMNIBUS_TOKEN, OMNIBUS_CREDENTIALS), or see whether the server still knows what the bus gives", err)
	}
	return err
}

// remedies says what to do about some of the server's errors, by their numbers.
var remedies = map[int]string{
	jserr.AccountLimits:         storeRemedy,
	jserr.ServerLimits:          storeRemedy,
	jserr.StorageReserved:       reservedRemedy,
	jserr.MemoryReserved:        reservedRemedy,
	jserr.NoPeers:               "use a smaller StreamConfig.Replicas, or add servers with JetStream and with room to the cluster",
	jserr.Unavailable:           "the servers of the cluster have no leader at the moment: try again, and see that most of them run",
	jserr.NotEnabled:            "start the server with JetStream (jetstream {} in its configuration, or -js)",
	jserr.NotEnabledForAccount:  "switch JetStream on for the account of this connection, or connect as a user of another account",
	jserr.TooManyConsumers:      "remove durables that nobody needs with Stream.DeleteConsumer, give several patterns to one durable with a Mux, or raise MaxConsumers of the stream (StreamConfig.Raw) or of the account",
	jserr.TooManyStreams:        "delete streams that nobody needs with Stream.Delete, give more subjects to one stream, or raise the account's limit of streams; a stream with consumers has two or three side streams",
	jserr.MessageTooLarge:       "raise StreamConfig.MaxMsgSize, or store a reference to the data",
	jserr.HeaderTooLarge:        "shorten what WithHeader sets",
	jserr.SubjectsOverlap:       "use that stream (Bus.LookupStream), or subjects that do not overlap with its",
	jserr.ReplicasUnsupported:   "a single server keeps one copy: leave Replicas out, or use a cluster",
	jserr.StoreFailed:           "the stream is full and refuses new messages: let its consumers handle some, delete some with Stream.Purge, raise the limit in its StreamConfig, or let it discard the oldest (Discard: DiscardOld, with AllowShrink)",
	jserr.WorkQueueTakenWhole:   workQueueRemedy,
	jserr.WorkQueueTaken:        workQueueRemedy,
	jserr.WorkQueueFromFirst:    "leave the StartAt option out: a work queue holds only messages that nobody has handled",
	jserr.StreamSealed:          "a sealed stream stores nothing any more: use another stream",
	jserr.DuplicateSource:       "name each source once; StreamConfig.Raw gets what the server has, so assign Sources there and do not append to it",
	jserr.MaxBytesRequired:      "the account wants a limit: set StreamConfig.MaxBytes; the side streams of a stream get the same limit",
	jserr.MaxBytesTooLarge:      "lower StreamConfig.MaxBytes, or raise the account's limit for one stream",
	jserr.TooManyUnacknowledged: "raise max_ack_pending of the server or the account, or give the stream a smaller ConsumerLimits.MaxAckPending (StreamConfig.Raw), which the consumers of the library keep to",
}

const (
	// workQueueRemedy says what to do about a second durable of a work queue.
	workQueueRemedy = "a work queue gives each message to one durable: share that one by using its name, give the durables subjects that do not overlap, or declare the stream with LimitsRetention or InterestRetention"
	// storeRemedy says what to do if there is no room for a message.
	storeRemedy = "raise the limit (WithMaxStore or WithMaxMemory, or that of the account), delete what is not needed (Stream.Purge, Stream.Discard), or bound the streams with MaxAge or MaxBytes"
	// reservedRemedy says what to do if there is no room for the MaxBytes of a stream.
	reservedRemedy = "the MaxBytes of all streams together may not exceed WithMaxStore or WithMaxMemory, or the limits of the account: give this stream or others a smaller MaxBytes, or raise that limit"
)

// definitionError makes the public errors of what streamdef returns. Errors of an overlay
// are public ones already.
func definitionError(err error) error {
	switch e := err.(type) { //nolint:errorlint // streamdef does not wrap them
	case *streamdef.ConflictError:
		return &StreamConflictError{Stream: e.Stream, Fields: fieldChanges(e.Fields), WouldRemove: Removal(e.WouldRemove)}
	case *streamdef.UnsupportedError:
		u := &UnsupportedError{Stream: e.Stream, Fields: e.Fields, Level: e.Level, Have: e.Have, Changed: e.Changed, Err: e.Err}
		if since, ok := serverversion.OfLevel(e.Level); ok {
			u.Version = since.String()
		}
		return u
	case *jserr.Error:
		return translate(e)
	}
	if err == streamdef.ErrNoDisk { //nolint:errorlint // likewise
		return errNoDisk()
	}
	return err
}

// fieldChanges returns the public form of changes.
func fieldChanges(changes []streamdef.Change) []FieldChange {
	var public []FieldChange
	for _, c := range changes {
		public = append(public, FieldChange(c))
	}
	return public
}

// foreignStream is the error of Consume if a stream of the program has the name of a side
// stream.
func foreignStream(e *sidestream.ForeignStreamError) error {
	conflict := &StreamConflictError{Stream: e.Side, Fields: []FieldChange{{Field: "Subjects", Have: e.Have, Want: e.Want}}}
	return &StreamError{Stream: e.Stream, Op: "consume", Err: fmt.Errorf("%w; the library needs this name for a side stream of %q, but this stream is not one; no server can rename a stream: let the program use another name for %q, or copy %q to a stream of another name that has it as a source, and delete it then", conflict, e.Stream, e.Stream, e.Side)}
}
