package bus

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// slogLogger returns an hclog.Logger that passes every line to l.
func slogLogger(l *slog.Logger) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "bus", Output: io.Discard, Level: hclog.Trace})
	logger.RegisterSink(&slogSink{l})
	return logger
}

// slogSink is where an hclog.InterceptLogger sends its lines.
type slogSink struct{ logger *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s *slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	at := slogLevel(level)
	if !s.logger.Enabled(context.Background(), at) {
		return
	}
	s.logger.With("logger", name).Log(context.Background(), at, msg, args...)
}

// slogLevel maps levels; slog has no trace, its levels are four apart.
func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slog.LevelDebug - 4
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}
