package bus

import (
	"cmp"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/slogsink"
	"github.com/omnibus-go/bus/internal/subject"
)

// WithName names the bus. The name is the client's name at the server, the default queue
// group of its responders, and the name of their service. All instances of a program should
// have the same name. It has 1 to 128 letters, digits, - and _. The default is the file
// name of the program.
func WithName(name string) ConnectOption {
	return forConnect(func(c *config) {
		if !nameRule.MatchString(name) {
			c.bad("WithName", strconv.Quote(name), "use 1 to 128 letters, digits, - and _")
		}
		c.name = name
	})
}

// WithVersion sets the semantic version of the program ("1.2.3", without v) that service
// discovery shows. The default is the version of the main module, or 0.0.0.
func WithVersion(version string) ConnectOption {
	return forConnect(func(c *config) {
		if !versionRule.MatchString(version) {
			c.bad("WithVersion", strconv.Quote(version), `use a semantic version such as "1.2.3"`)
		}
		c.version = version
	})
}

// WithInboxPrefix sets the first tokens of the subjects on which the bus receives replies,
// and messages of streams: "_INBOX_shop" for "_INBOX_shop.…". A client that may subscribe
// to these subjects can read the replies to others. Give each program a prefix of its own,
// and let its user subscribe to "<prefix>.>" alone, not to "_INBOX.>". The prefix is a
// subject without wildcards, of at most 64 bytes, and does not begin with "$". The default
// is "_INBOX" on an existing server, and a prefix of its own for each bus with an embedded
// one.
func WithInboxPrefix(prefix string) ConnectOption {
	return forConnect(func(c *config) {
		switch problem := subject.Check(prefix); {
		case problem != nil:
			c.bad("WithInboxPrefix", strconv.Quote(prefix), problem.Reason)
		case len(prefix) > largestPrefix:
			c.bad("WithInboxPrefix", strconv.Quote(prefix), fmt.Sprintf("has more than %d bytes", largestPrefix))
		case prefix[0] == '$':
			c.bad("WithInboxPrefix", strconv.Quote(prefix), `begins with "$", which is for subjects of the server`)
		}
		c.inbox = prefix
	})
}

// WithLogger has the bus log to l. The lines of the embedded server come from a sub-logger
// with the name "nats". The default logger writes Info and above to standard error.
func WithLogger(l hclog.Logger) ConnectOption {
	return forConnect(func(c *config) {
		if l == nil {
			c.bad("WithLogger", "nil", "give a logger, hclog.NewNullLogger() for none")
			return
		}
		c.log.logger, c.log.slog = l, nil
	})
}

// WithSlog is WithLogger for log/slog. Trace lines have a level of slog.LevelDebug-4.
func WithSlog(l *slog.Logger) ConnectOption {
	return forConnect(func(c *config) {
		if l == nil {
			c.bad("WithSlog", "nil", "give a logger")
			return
		}
		c.log.slog = &slogsink.Sink{Logger: l}
		c.log.logger = c.log.slog.Named("bus")
	})
}

// WithEvents has the bus call fn for what no call can return, such as a slow consumer, a
// message of PublishAsync that could not be sent, or a lost connection. fn is called on the
// goroutine on which the event happened, by several goroutines at once. It must return
// quickly. A panic in it is logged. It must not end its goroutine, as FailNow of a test
// does.
func WithEvents(fn func(event.Event)) ConnectOption {
	return forConnect(func(c *config) {
		if fn == nil {
			c.bad("WithEvents", "nil", "give a function")
			return
		}
		c.onEvent = fn
	})
}

// WithMiddleware wraps every handler of the bus. The first middleware is the outermost. All
// of them are outside the middleware of Use. The option may be given several times.
func WithMiddleware(mws ...Middleware) ConnectOption {
	return forConnect(func(c *config) {
		for i, mw := range mws {
			if mw == nil {
				c.bad("WithMiddleware", fmt.Sprintf("nil at %d", i), "leave it out")
				continue
			}
			c.middleware = append(c.middleware, mw)
		}
	})
}

// WithTimeout bounds every call whose context has no deadline. The default is 5 s. It bounds each attempt to
// connect, too; of those after a lost connection dialling and the handshake take 5 s at most.
func WithTimeout(d time.Duration) ConnectOption {
	return forConnect(func(c *config) {
		positive(c, "WithTimeout", d)
		c.timeout = d
	})
}

// WithDrainTimeout bounds Close, and Shutdown with a context without deadline. Handlers may
// take that long to finish. The default is 25 s, because Kubernetes kills a program 30 s after
// SIGTERM; change both together (terminationGracePeriodSeconds).
func WithDrainTimeout(d time.Duration) ConnectOption {
	return forConnect(func(c *config) {
		positive(c, "WithDrainTimeout", d)
		c.drainTimeout = d
	})
}

// AsyncBuffer bounds what PublishAsync and PublishToAsync keep in memory.
type AsyncBuffer struct {
	Size   int  // messages of PublishAsync, at most 1,048,576; 0 means 4096
	NoWait bool // when they are so many: true returns ErrBufferFull, false waits until ctx ends
	Window int  // messages of PublishToAsync without an acknowledgement, at most 65,536; 0 means 1024
}

// WithAsyncBuffer sets how many messages PublishAsync and PublishToAsync keep in memory. By
// default the buffer of PublishAsync holds 4,096 messages, and PublishAsync waits while it is
// full. Of PublishToAsync 1,024 messages may be without an acknowledgement; while they are so
// many PublishToAsync waits.
func WithAsyncBuffer(a AsyncBuffer) ConnectOption {
	return forConnect(func(c *config) {
		if a.Size < 0 || a.Size > largestAsync {
			c.bad("WithAsyncBuffer", a.Size, fmt.Sprintf("Size must not be negative, and at most %d", largestAsync))
			return
		}
		if a.Window < 0 || a.Window > largestWindow {
			c.bad("WithAsyncBuffer", a.Window, fmt.Sprintf("Window must not be negative, and at most %d", largestWindow))
			return
		}
		c.publish.bufferSize, c.publish.bufferNoWait = cmp.Or(a.Size, defaultAsync), a.NoWait
		c.publish.window = cmp.Or(a.Window, defaultWindow)
	})
}

// WithStrictPublish makes Publish fail with a *CapturedError on a subject that a stream
// known to this bus stores. Without it the bus logs a warning. bustest turns it on.
func WithStrictPublish() ConnectOption {
	return forConnect(func(c *config) { c.publish.strict = true })
}

// WithTracerProvider turns on spans for publish, request, process and settle (telling the
// server the outcome of a message), and carries the trace context in message headers.
// Without it the bus writes and reads no such headers. For the global provider pass
// otel.GetTracerProvider().
func WithTracerProvider(p trace.TracerProvider) ConnectOption {
	return forConnect(func(c *config) { c.telemetry.tracer = p })
}

// WithMeterProvider turns on metrics. Their names follow the OpenTelemetry semantic
// conventions for messaging. For the global provider pass otel.GetMeterProvider().
func WithMeterProvider(p metric.MeterProvider) ConnectOption {
	return forConnect(func(c *config) { c.telemetry.meter = p })
}

// WithPropagator sets how the trace context travels. The default is W3C trace context and
// baggage. It has no effect without WithTracerProvider.
func WithPropagator(p propagation.TextMapPropagator) ConnectOption {
	return forConnect(func(c *config) { c.telemetry.propagator = p })
}

// WithHealthThresholds sets the values above which Health reports Degraded. Zero fields
// keep their defaults.
func WithHealthThresholds(t health.Thresholds) ConnectOption {
	return forConnect(func(c *config) {
		if min(t.SlowRTT, t.OldestAge, t.HandlerTime) < 0 || min(t.PendingRatio, t.StoreRatio, t.ErrorRatio) < 0 || max(t.PendingRatio, t.StoreRatio, t.ErrorRatio) > 1 {
			c.bad("WithHealthThresholds", fmt.Sprintf("%+v", t), "durations must not be negative, ratios lie between 0 and 1")
			return
		}
		c.thresholds = t.WithDefaults()
	})
}
