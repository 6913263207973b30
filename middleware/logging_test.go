package middleware_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/middleware"
)

// lines collects the lines of a JSON logger.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) logger(level hclog.Level) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: level, Output: l, JSONFormat: true, DisableTime: true})
}

// parsed returns the lines without their durations, which must be there.
func (l *lines) parsed(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		var fields map[string]any
		check(t, json.Unmarshal([]byte(line), &fields))
		if _, ok := fields["duration"]; !ok {
			t.Errorf("no duration in %s", line)
		}
		delete(fields, "duration")
		all = append(all, fields)
	}
	return all
}

func TestLoggingLines(t *testing.T) {
	t.Parallel()
	const secret = "payload-and-headers-stay-out"
	core := bus.RawMsg{Subject: "c.x", Attempt: 1}
	named := bus.RawMsg{Subject: "c.x", Attempt: 1, ID: "order-1"}
	stored := bus.RawMsg{Subject: "s.x", Stream: "S", Sequence: 7, Attempt: 2, ID: "S/7"}
	storedNamed := bus.RawMsg{Subject: "s.x", Stream: "S", Sequence: 7, Attempt: 1, ID: "order-1"}
	tests := map[string]struct {
		msg   bus.RawMsg
		level hclog.Level
		opts  []middleware.LoggingOption
		err   error
		panic any
		want  map[string]any // nil: no line
	}{
		"core":            {msg: core, want: map[string]any{"@level": "debug", "@message": "handled", "subject": "c.x"}},
		"core with ID":    {msg: named, want: map[string]any{"@level": "debug", "@message": "handled", "subject": "c.x", "id": "order-1"}},
		"stored":          {msg: stored, want: map[string]any{"@level": "debug", "@message": "handled", "subject": "s.x", "stream": "S", "sequence": 7.0, "attempt": 2.0}},
		"stored with ID":  {msg: storedNamed, want: map[string]any{"@level": "debug", "@message": "handled", "subject": "s.x", "stream": "S", "sequence": 7.0, "attempt": 1.0, "id": "order-1"}},
		"failed":          {msg: core, err: errHandler, want: map[string]any{"@level": "warn", "@message": "handler failed", "subject": "c.x", "error": errHandler.Error()}},
		"panicked":        {msg: core, panic: "boom", want: map[string]any{"@level": "error", "@message": "handler panicked", "subject": "c.x"}},
		"level too high":  {msg: core, level: hclog.Info},
		"failed at Info":  {msg: core, level: hclog.Info, err: errHandler, want: map[string]any{"@level": "warn", "@message": "handler failed", "subject": "c.x", "error": errHandler.Error()}},
		"handled at Info": {msg: core, level: hclog.Info, opts: []middleware.LoggingOption{middleware.HandledLevel(hclog.Info)}, want: map[string]any{"@level": "info", "@message": "handled", "subject": "c.x"}},
		"handled off":     {msg: core, level: hclog.Trace, opts: []middleware.LoggingOption{middleware.HandledLevel(hclog.Off)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.level == hclog.NoLevel {
				test.level = hclog.Trace
			}
			test.msg.Data, test.msg.Header = []byte(secret), bus.Header{"X": {secret}}
			var out lines
			h := must(t)(middleware.Logging(out.logger(test.level), test.opts...))(func(context.Context, *bus.RawMsg) error {
				if test.panic != nil {
					panic(test.panic)
				}
				return test.err
			})
			if test.panic != nil {
				if v := panicValue(h, &test.msg); v != test.panic {
					t.Errorf("recovered %v, want the panic to go on", v)
				}
			} else if err := h(t.Context(), &test.msg); err != test.err {
				t.Errorf("returned %v, want the handler's error", err)
			}
			if strings.Contains(out.buf.String(), secret) {
				t.Errorf("payload in the log: %s", out.buf.String())
			}
			got := out.parsed(t)
			if test.want == nil {
				if len(got) > 0 {
					t.Errorf("logged %v", got)
				}
				return
			}
			if len(got) != 1 || !maps.Equal(got[0], test.want) {
				t.Errorf("logged %v, want %v", got, test.want)
			}
		})
	}
}

func TestLoggingMeasuresTheHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: &out, DisableTime: true})
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		_, err := bus.Subscribe(b, "c.>", func(context.Context, *bus.Msg[int]) error {
			time.Sleep(90 * time.Second)
			return nil
		}, bus.Use(must(t)(middleware.Logging(logger))))
		check(t, err)
		publish(t, b, 1)
		pass(time.Hour)
		check(t, b.Close())
	})
	if want := "[DEBUG] handled: subject=c.x duration=1m30s\n"; out.String() != want {
		t.Errorf("logged %q, want %q", out.String(), want)
	}
}

// An intercept logger's sinks get lines that are below the logger's own level.
func TestLoggingReachesSinks(t *testing.T) {
	t.Parallel()
	logger := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Error, Output: io.Discard})
	var out bytes.Buffer
	logger.RegisterSink(hclog.NewSinkAdapter(&hclog.LoggerOptions{Level: hclog.Debug, Output: &out}))
	h := must(t)(middleware.Logging(logger))(func(context.Context, *bus.RawMsg) error { return nil })
	check(t, h(t.Context(), &bus.RawMsg{Subject: "c.x"}))
	if !strings.Contains(out.String(), "handled: subject=c.x") {
		t.Errorf("the sink got %q", out.String())
	}
}

func TestLoggingRefusesBadArguments(t *testing.T) {
	t.Parallel()
	refused(t, "Logging", "logger")(middleware.Logging(nil))
	refused(t, "Logging", "opts")(middleware.Logging(hclog.NewNullLogger(), nil))
	refused(t, "Logging", "HandledLevel")(middleware.Logging(hclog.NewNullLogger(), middleware.HandledLevel(hclog.NoLevel)))
	refused(t, "Logging", "HandledLevel")(middleware.Logging(hclog.NewNullLogger(), middleware.HandledLevel(hclog.Off+1)))
}

// The bus catches the panic outside of the middleware, whose line is written.
func TestLoggingOfAPanicOnTheBus(t *testing.T) {
	t.Parallel()
	var out lines
	events := make(chan event.Event, 1)
	b := bustest.New(t, bus.WithSlog(slog.New(slog.DiscardHandler)), bus.WithEvents(func(e event.Event) { events <- e }),
		bus.WithMiddleware(must(t)(middleware.Logging(out.logger(hclog.Debug)))))
	_, err := bus.Subscribe(b, "c.>", func(context.Context, *bus.Msg[int]) error { panic("boom") })
	check(t, err)
	publish(t, b, 1)
	var p *bus.PanicError
	if e := <-events; !errors.As(e.Err, &p) || p.Value != "boom" {
		t.Errorf("event %+v, want the panic", e)
	}
	want := map[string]any{"@level": "error", "@message": "handler panicked", "subject": "c.x"}
	if got := out.parsed(t); len(got) != 1 || !maps.Equal(got[0], want) {
		t.Errorf("logged %v, want %v", got, want)
	}
}

// The lines for slog are those for hclog.
func TestSlogLogging(t *testing.T) {
	t.Parallel()
	var out lines
	mw, err := middleware.SlogLogging(slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	check(t, err)
	failed := errors.New("no luck")
	for _, result := range []error{nil, failed} {
		h := mw(func(context.Context, *bus.RawMsg) error { return result })
		if err := h(t.Context(), &bus.RawMsg{Subject: "a.b", Stream: "S", Sequence: 7, Attempt: 2}); !errors.Is(err, result) {
			t.Errorf("got %v, want %v", err, result)
		}
	}
	got := out.parsed(t)
	if len(got) != 2 {
		t.Fatalf("got %v", got)
	}
	for i, want := range []struct{ level, msg string }{{"DEBUG", "handled"}, {"WARN", "handler failed"}} {
		if got[i]["level"] != want.level || got[i]["msg"] != want.msg || got[i]["logger"] != "handler" || got[i]["subject"] != "a.b" || got[i]["sequence"] != 7.0 {
			t.Errorf("got %v, want %v", got[i], want)
		}
	}
	if _, err := middleware.SlogLogging(nil); err == nil || !strings.Contains(err.Error(), "logger is nil") {
		t.Errorf("got %v", err)
	}
}
