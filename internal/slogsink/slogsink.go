// Package slogsink writes the lines of an hclog.Logger to a slog.Logger. It has no state and no
// goroutines, and a crash leaves nothing behind.
package slogsink

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Sink writes the lines of an hclog.Logger to Logger. Safe for concurrent use.
type Sink struct {
	Logger   *slog.Logger
	MinLevel hclog.Level // lines below it are dropped; NoLevel: only the level of Logger counts
}

// Named returns a logger with that name that writes to s.
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

// slogLevel returns the level for slog. The levels of slog are four apart, and it has no trace level.
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
