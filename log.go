package bus

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// slogSink passes the lines of an hclog.Logger to a slog.Logger.
type slogSink struct {
	logger *slog.Logger
	least  hclog.Level // NoLevel: the slog.Logger's own decides
}

// asLogger returns the logger that writes to s.
func (s *slogSink) asLogger() hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "bus", Output: io.Discard, Level: hclog.Trace})
	logger.RegisterSink(s)
	return logger
}

// Accept implements hclog.SinkAdapter.
func (s *slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	at := slogLevel(level)
	if level < s.least || !s.logger.Enabled(context.Background(), at) {
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
