package middleware

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/internal/slogsink"
)

// LoggingOption is an option of Logging and SlogLogging.
type LoggingOption interface{ onLogging(*logging) }

type loggingOption func(*logging)

func (f loggingOption) onLogging(l *logging) { f(l) }

// HandledLevel sets the level of the line for a handled message. The default is hclog.Debug. With
// hclog.Off only failures are logged.
func HandledLevel(level hclog.Level) LoggingOption {
	return loggingOption(func(l *logging) { l.handled = level })
}

// Logging returns a middleware that logs one line for each message when the handler has returned.
// The level is Debug if the message was handled, Warn with the error if the handler failed, and
// Error if the handler panicked. The fields are subject and duration. A message of a stream also
// has stream, sequence and attempt. A message whose publisher set an ID also has id. Payloads
// and headers are never logged.
//
// The bus itself logs failures and reports them as events (bus.WithEvents). This middleware adds
// successes and durations.
func Logging(logger hclog.Logger, opts ...LoggingOption) (bus.Middleware, error) {
	if logger == nil {
		return nil, invalid("Logging", "logger", "is nil")
	}
	l := &logging{logger: logger, handled: hclog.Debug}
	for _, o := range opts {
		if o == nil {
			return nil, invalid("Logging", "opts", "has a nil option; leave it out")
		}
		o.onLogging(l)
	}
	if l.handled < hclog.Trace || l.handled > hclog.Off {
		return nil, invalid("Logging", "HandledLevel", "must lie between hclog.Trace and hclog.Off")
	}
	_, l.sinks = logger.(hclog.InterceptLogger)
	return l.wrap, nil
}

// SlogLogging is Logging for log/slog. The level hclog.Trace becomes slog.LevelDebug - 4.
func SlogLogging(logger *slog.Logger, opts ...LoggingOption) (bus.Middleware, error) {
	if logger == nil {
		return nil, invalid("SlogLogging", "logger", "is nil")
	}
	return Logging((&slogsink.Sink{Logger: logger}).Named("handler"), opts...)
}

// logging is the middleware of Logging.
type logging struct {
	logger  hclog.Logger
	handled hclog.Level
	sinks   bool // the logger passes lines of every level on to its sinks
}

// wrap implements bus.Middleware.
func (l *logging) wrap(next bus.RawHandler) bus.RawHandler {
	return func(ctx context.Context, m *bus.RawMsg) (err error) {
		began := time.Now()
		returned := false
		defer func() { l.log(m, err, returned, time.Since(began)) }() // also when next panics
		err = next(ctx, m)
		returned = true
		return err
	}
}

// log logs the line for m.
func (l *logging) log(m *bus.RawMsg, err error, returned bool, took time.Duration) {
	level, text := l.handled, "handled"
	switch {
	case !returned:
		level, text = hclog.Error, "handler panicked"
	case err != nil:
		level, text = hclog.Warn, "handler failed"
	}
	if l.isSilent(level) {
		return
	}
	args := fields(m)
	if err != nil {
		args = append(args, "error", err)
	}
	l.logger.Log(level, text, append(args, "duration", took)...)
}

// isSilent reports whether a line of this level would be dropped. Then log does not make it.
func (l *logging) isSilent(level hclog.Level) bool {
	return level == hclog.Off || !l.sinks && level < l.logger.GetLevel()
}

// fields returns the fields that identify m.
func fields(m *bus.RawMsg) []any {
	args := make([]any, 0, 12)
	args = append(args, "subject", m.Subject)
	if m.Stream != "" {
		args = append(args, "stream", m.Stream, "sequence", m.Sequence, "attempt", m.Attempt)
	}
	if m.ID != "" && !hasStreamID(m) {
		args = append(args, "id", m.ID)
	}
	return args
}

// hasStreamID reports whether the ID of m is its stream and sequence. A message of a stream has such
// an ID if the publisher set none.
func hasStreamID(m *bus.RawMsg) bool {
	sequence, ok := strings.CutPrefix(m.ID, m.Stream+"/")
	return ok && m.Stream != "" && sequence == strconv.FormatUint(m.Sequence, 10)
}
