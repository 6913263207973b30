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

// LoggingOption changes Logging.
type LoggingOption interface{ onLogging(*logging) }

type loggingOption func(*logging)

func (f loggingOption) onLogging(l *logging) { f(l) }

// HandledLevel is the level of the lines for messages that were handled; the
// default is hclog.Debug. With hclog.Off only failures are logged.
func HandledLevel(level hclog.Level) LoggingOption {
	return loggingOption(func(l *logging) { l.handled = level })
}

// Logging writes one line for each message when its handler has returned: at
// Debug when it was handled, at Warn with the error when it was not, at Error
// when it panicked. The fields are subject, for a message of a stream also
// stream, sequence and attempt, for one that was given an ID also id, and
// duration. Payloads and headers are never logged.
//
// Failures are logged by the bus as well (bus.WithEvents tells of them); what
// this adds is the successes and the durations.
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

// SlogLogging is Logging for log/slog; with a HandledLevel of hclog.Trace the line is
// four below slog's Debug.
func SlogLogging(logger *slog.Logger, opts ...LoggingOption) (bus.Middleware, error) {
	if logger == nil {
		return nil, invalid("SlogLogging", "logger", "is nil")
	}
	return Logging((&slogsink.Sink{Logger: logger}).Named("handler"), opts...)
}

type logging struct {
	logger  hclog.Logger
	handled hclog.Level
	sinks   bool // the logger passes lines on to sinks whatever its own level is
}

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

// log writes the line of m.
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

// silent reports that a line of this level would go nowhere, which saves making
// it.
func (l *logging) isSilent(level hclog.Level) bool {
	return level == hclog.Off || !l.sinks && level < l.logger.GetLevel()
}

// fields say which message it is.
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

// positional reports whether m has the ID of a message that was given none: its
// place in the stream.
func hasStreamID(m *bus.RawMsg) bool {
	sequence, ok := strings.CutPrefix(m.ID, m.Stream+"/")
	return ok && m.Stream != "" && sequence == strconv.FormatUint(m.Sequence, 10)
}
