// Package slogsink lets what logs with hclog write to a slog.Logger.
package slogsink

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Sink passes the lines of an hclog.Logger to a slog.Logger.
type Sink struct {
	Logger   *slog.Logger
	MinLevel hclog.Level // NoLevel: the slog.Logger's own decides
}

// As returns the logger of that name that writes to s.
func (s *Sink) Named(name string) hclog.Logger {
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: name, Output: io.Discard, Level: hclog.Trace})
	logger.RegisterSink(s)
	return logger
}

// Accept implements hclog.SinkAdapter.
func (s *Sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	at := slogLevel(level)
	if level < s.MinLevel || !s.Logger.Enabled(context.Background(), at) {
		return
	}
	s.Logger.With("logger", name).Log(context.Background(), at, msg, args...)
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
