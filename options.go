package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/internal/subject"
)

// Option configures New.
type Option interface{ configure(*config) }

// ConnectOption configures Connect, and New.
type ConnectOption interface {
	Option
	connectOption()
}

// AccessOption says how to identify oneself to an existing server: for Connect,
// and for New with WithURL.
type AccessOption interface {
	ConnectOption
	accessOption()
}

type option func(*config)

func (o option) configure(c *config) { o(c) }

type anywhere struct{ option }

func (anywhere) connectOption() {}

type identity struct{ anywhere }

func (identity) accessOption() {}

func forConnect(f func(*config)) ConnectOption { return anywhere{f} }
func forAccess(f func(*config)) AccessOption   { return identity{anywhere{f}} }

// config is what the options say. It does not change once the bus runs.
type config struct {
	// of New only
	url           string
	storeDir      string
	listen        string
	sync          SyncPolicy
	maxMemory     int64
	maxStore      int64
	maxPayload    int
	serverOptions []any // func(*server.Options); server.go knows the type

	// of New and Connect
	name         string
	version      string
	logger       hclog.Logger
	logLevel     hclog.Level // NoLevel: the logger's own
	onEvent      func(Event)
	codec        codec.Codec
	codecRules   []codecRule
	codecs       []codec.Codec
	compression  Compression
	middleware   []Middleware
	timeout      time.Duration
	drainTimeout time.Duration
	async        AsyncBuffer
	strict       bool
	thresholds   HealthThresholds
	tracer       trace.TracerProvider
	meter        metric.MeterProvider
	propagator   propagation.TextMapPropagator

	access      []nats.Option
	accessNames []string // the access options given, to refuse them without a URL

	errs []error
}

const (
	defaultTimeout      = 5 * time.Second
	defaultDrainTimeout = 30 * time.Second
	defaultAsync        = 4096
	defaultMaxPayload   = 1 << 20
	largestPayload      = 8 << 20 // above it the server warns, and clients must be sized for it
)

func newConfig() *config {
	return &config{
		name:         programName(),
		version:      programVersion(),
		sync:         SyncAlways,
		maxPayload:   defaultMaxPayload,
		codec:        codec.JSON,
		timeout:      defaultTimeout,
		drainTimeout: defaultDrainTimeout,
		async:        AsyncBuffer{Size: defaultAsync},
		thresholds:   defaultThresholds(),
	}
}

// apply runs the options in order; of two that set the same thing the later wins.
func (c *config) apply(opts []Option) {
	for i, o := range opts {
		if o == nil {
			c.bad(fmt.Sprintf("option %d", i+1), "nil", "leave it out")
			continue
		}
		o.configure(c)
	}
	if c.logger == nil {
		c.logger = hclog.New(&hclog.LoggerOptions{Name: "bus", Level: hclog.Info})
	}
	if c.logLevel != hclog.NoLevel {
		c.logger.SetLevel(c.logLevel)
	}
}

func (c *config) bad(option string, value any, reason string) {
	c.errs = append(c.errs, &OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

// positive reports a value that is not above zero.
func positive[N int | int64 | time.Duration](c *config, option string, v N) {
	if v <= 0 {
		c.bad(option, v, "must be more than zero")
	}
}

var nameRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// programName makes the default name of a bus of the program's.
func programName() string {
	base := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && nameRule.MatchString(string(r)) {
			return r
		}
		return '-'
	}, base)
	if !nameRule.MatchString(name) {
		return "bus"
	}
	return name
}

// versionRule is semantic versioning, which the NATS micro protocol asks for.
var versionRule = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := strings.TrimPrefix(info.Main.Version, "v"); versionRule.MatchString(v) {
			return v
		}
	}
	return "0.0.0"
}

// WithName names the bus: it is the client's name at the server, the default
// queue group of its responders and their service name. All instances of one
// program should have the same name. Letters, digits, - and _; the default is
// the program's file name.
func WithName(name string) ConnectOption {
	return forConnect(func(c *config) {
		if !nameRule.MatchString(name) {
			c.bad("WithName", strconv.Quote(name), "use 1 to 128 letters, digits, - and _")
		}
		c.name = name
	})
}

// WithVersion is the program's semantic version ("1.2.3", without v), as service
// discovery shows it. The default is the main module's, or 0.0.0.
func WithVersion(version string) ConnectOption {
	return forConnect(func(c *config) {
		if !versionRule.MatchString(version) {
			c.bad("WithVersion", strconv.Quote(version), `use a semantic version such as "1.2.3"`)
		}
		c.version = version
	})
}

// WithLogger has the bus log to l; the embedded server's lines come as its
// sub-logger "nats". The default writes Info and above to standard error.
func WithLogger(l hclog.Logger) ConnectOption {
	return forConnect(func(c *config) {
		if l == nil {
			c.bad("WithLogger", "nil", "give a logger, hclog.NewNullLogger() for none")
			return
		}
		c.logger = l
	})
}

// WithSlog is WithLogger for log/slog. Trace lines come four below slog's Debug.
func WithSlog(l *slog.Logger) ConnectOption {
	return forConnect(func(c *config) {
		if l == nil {
			c.bad("WithSlog", "nil", "give a logger")
			return
		}
		c.logger = slogLogger(l)
	})
}

// WithEvents has fn told of what no caller can receive: a slow consumer, a
// failed asynchronous publish, a lost connection. It is called on the goroutine
// where the event happened, by several at once, and must return quickly. A
// panic in it is logged.
func WithEvents(fn func(Event)) ConnectOption {
	return forConnect(func(c *config) {
		if fn == nil {
			c.bad("WithEvents", "nil", "give a function")
			return
		}
		c.onEvent = fn
	})
}

type codecRule struct {
	pattern string
	codec   codec.Codec
}

// WithCodec sets the codec of the types that imply none; the default is
// codec.JSON. Buses that exchange messages should agree on it: what the bus's
// own codec wrote carries no content type only where that is JSON.
func WithCodec(cd codec.Codec) ConnectOption {
	return forConnect(func(c *config) {
		if cd == nil {
			c.bad("WithCodec", "nil", "give a codec, as codec.JSON")
			return
		}
		c.codec = cd
		c.codecs = append(c.codecs, cd)
	})
}

// WithCodecFor sets the codec of all messages on the subjects that pattern
// matches, whatever their type; of several rules the first that matches holds.
func WithCodecFor(pattern string, cd codec.Codec) ConnectOption {
	return forConnect(func(c *config) {
		if p := subject.CheckPattern(pattern); p != nil {
			c.bad("WithCodecFor", strconv.Quote(pattern), p.Reason)
			return
		}
		if cd == nil {
			c.bad("WithCodecFor", "nil", "give a codec, as codec.JSON")
			return
		}
		c.codecRules = append(c.codecRules, codecRule{pattern, cd})
		c.codecs = append(c.codecs, cd)
	})
}

// The compressions a message can carry; every bus reads all of them.
const (
	Zstd = "zstd"
	S2   = "s2"
	Gzip = "gzip"
)

// Compression says how to compress payloads and how much to decompress.
type Compression struct {
	Encoding   string // Zstd, S2 or Gzip; empty: nothing is compressed
	MinSize    int    // payloads of fewer bytes go as they are; 0 means 1024
	MaxDecoded int    // the most bytes a received payload may decompress to; 0 means 64 MiB
}

const (
	defaultMinSize    = 1024
	defaultMaxDecoded = 64 << 20
)

func (c Compression) withDefaults() Compression {
	if c.MinSize == 0 {
		c.MinSize = defaultMinSize
	}
	if c.MaxDecoded == 0 {
		c.MaxDecoded = defaultMaxDecoded
	}
	return c
}

// WithCompression compresses payloads of at least MinSize bytes where that makes
// them smaller. Decompression of what arrives needs no option.
func WithCompression(comp Compression) ConnectOption {
	return forConnect(func(c *config) {
		switch comp.Encoding {
		case "", Zstd, S2, Gzip:
		default:
			c.bad("WithCompression", strconv.Quote(comp.Encoding), "use bus.Zstd, bus.S2 or bus.Gzip")
		}
		if comp.MinSize < 0 || comp.MaxDecoded < 0 {
			c.bad("WithCompression", fmt.Sprintf("%+v", comp), "sizes must not be negative")
		}
		c.compression = comp
	})
}

// WithMiddleware wraps every handler of the bus. The first is the outermost;
// all of them are outside those of Use. The option may be repeated.
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

// WithTimeout bounds every call whose context has no deadline; the default is 5 s.
func WithTimeout(d time.Duration) ConnectOption {
	return forConnect(func(c *config) {
		positive(c, "WithTimeout", d)
		c.timeout = d
	})
}

// WithDrainTimeout bounds Close, and Shutdown with a context without deadline:
// how long handlers may take to finish. The default is 30 s.
func WithDrainTimeout(d time.Duration) ConnectOption {
	return forConnect(func(c *config) {
		positive(c, "WithDrainTimeout", d)
		c.drainTimeout = d
	})
}

// AsyncBuffer describes the buffer of PublishAsync.
type AsyncBuffer struct {
	Size   int  // messages; 0 means 4096
	NoWait bool // when it is full: true returns ErrBufferFull, false waits until ctx ends
}

// WithAsyncBuffer sets the size of PublishAsync's buffer and what happens when
// it is full. The default waits, with room for 4096 messages.
func WithAsyncBuffer(a AsyncBuffer) ConnectOption {
	return forConnect(func(c *config) {
		if a.Size < 0 {
			c.bad("WithAsyncBuffer", a.Size, "must not be negative")
			return
		}
		if a.Size == 0 {
			a.Size = defaultAsync
		}
		c.async = a
	})
}

// WithStrictPublish makes Publish fail with a *CapturedError on a subject that
// a stream known to this bus stores, where without it a warning is logged.
// bustest turns it on.
func WithStrictPublish() ConnectOption {
	return forConnect(func(c *config) { c.strict = true })
}

// WithTracerProvider turns on spans for publish, request, receive, process and
// settle, and their propagation through message headers. Without it no header
// is written or read for tracing. For the global provider pass
// otel.GetTracerProvider().
func WithTracerProvider(p trace.TracerProvider) ConnectOption {
	return forConnect(func(c *config) { c.tracer = p })
}

// WithMeterProvider turns on metrics, named by the OpenTelemetry semantic
// conventions for messaging. For the global provider pass
// otel.GetMeterProvider().
func WithMeterProvider(p metric.MeterProvider) ConnectOption {
	return forConnect(func(c *config) { c.meter = p })
}

// WithPropagator sets how trace context travels; the default is W3C trace
// context and baggage. It has no effect without WithTracerProvider.
func WithPropagator(p propagation.TextMapPropagator) ConnectOption {
	return forConnect(func(c *config) { c.propagator = p })
}

// WithHealthThresholds sets when Health reports degraded. Zero fields keep
// their defaults.
func WithHealthThresholds(t HealthThresholds) ConnectOption {
	return forConnect(func(c *config) {
		if t.SlowRTT < 0 || t.PendingRatio < 0 || t.PendingRatio > 1 || t.ErrorRatio < 0 || t.ErrorRatio > 1 {
			c.bad("WithHealthThresholds", fmt.Sprintf("%+v", t), "durations must not be negative, ratios lie between 0 and 1")
			return
		}
		c.thresholds = t.withDefaults()
	})
}

// WithURL has New use the server at u ("nats://host:4222", several separated by
// commas) instead of an embedded one. An empty u means embedded, so that it can
// come straight from a configuration.
func WithURL(u string) Option {
	return option(func(c *config) {
		if u != "" {
			c.checkURL("WithURL", u)
		}
		c.url = u
	})
}

func (c *config) checkURL(option, list string) {
	for u := range strings.SplitSeq(list, ",") {
		if reason := urlProblem(strings.TrimSpace(u)); reason != "" {
			c.bad(option, strconv.Quote(redact(list)), reason)
			return
		}
	}
}

func urlProblem(u string) string {
	if u == "" {
		return `is empty; use "nats://host:4222"`
	}
	if !strings.Contains(u, "://") {
		u = "nats://" + u
	}
	p, err := url.Parse(u)
	if err != nil || p.Hostname() == "" {
		return `is not a URL; use "nats://host:4222"`
	}
	switch p.Scheme {
	case "nats", "tls", "ws", "wss":
		return ""
	}
	return fmt.Sprintf("has the scheme %q; use nats, tls, ws or wss", p.Scheme)
}

// redact removes passwords and tokens from a list of URLs.
func redact(list string) string {
	urls := strings.Split(list, ",")
	for i, u := range urls {
		scheme, rest, found := strings.Cut(u, "://")
		if !found {
			scheme, rest = "", u
		}
		if _, host, ok := strings.Cut(rest, "@"); ok {
			rest = "xxxxx@" + host
		}
		if found {
			rest = scheme + "://" + rest
		}
		urls[i] = rest
	}
	return strings.Join(urls, ",")
}

// WithStoreDir keeps the streams of the embedded server in dir, which is made
// if absent and belongs to one bus at a time. Without it they are in memory and
// gone with the process. What was stored survives kill -9, and a power cut
// unless WithSync says otherwise. An empty dir means in memory.
func WithStoreDir(dir string) Option {
	return option(func(c *config) { c.storeDir = dir })
}

// WithListen opens a port of the embedded server for other NATS clients:
// "127.0.0.1:4222", ":4222" for all interfaces, "127.0.0.1:0" for any free
// port, which ClientURL tells. Without it there is no port. Clients are not
// asked who they are unless WithServerOptions sets that up.
func WithListen(addr string) Option {
	return option(func(c *config) {
		if addr == "" {
			c.listen = ""
			return
		}
		if _, _, err := splitListen(addr); err != nil {
			c.bad("WithListen", strconv.Quote(addr), err.Error())
		}
		c.listen = addr
	})
}

// splitListen splits host:port into what the server wants.
func splitListen(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf(`is not host:port; use "127.0.0.1:4222", or port 0 for any free one`)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", text)
	}
	return host, port, nil
}

// SyncPolicy says when the embedded server's files reach the disk.
type SyncPolicy struct {
	relaxed bool
	every   time.Duration
}

// SyncAlways makes each stored message safe against a power cut before its
// publisher is told so: one fsync a message. It is the default.
var SyncAlways = SyncPolicy{}

// SyncEvery syncs the files every d: a killed process still loses nothing, a
// power cut up to d of messages, and on a fresh directory also streams declared
// shortly before. d is at least 100 ms.
func SyncEvery(d time.Duration) SyncPolicy { return SyncPolicy{relaxed: true, every: d} }

func (p SyncPolicy) String() string {
	if !p.relaxed {
		return "always"
	}
	return p.every.String()
}

// WithSync sets when stored messages reach the disk; the default is SyncAlways.
// It has no effect without WithStoreDir.
func WithSync(p SyncPolicy) Option {
	return option(func(c *config) {
		if p.relaxed && p.every < 100*time.Millisecond {
			c.bad("WithSync", p, "the interval must be at least 100ms; use SyncAlways to sync each message")
		}
		c.sync = p
	})
}

// WithMaxMemory limits the bytes of all streams in memory. The default is a
// quarter of the least of GOMEMLIMIT, the container's limit and the machine's
// memory, at most 1 GiB.
func WithMaxMemory(bytes int64) Option {
	return option(func(c *config) {
		positive(c, "WithMaxMemory", bytes)
		c.maxMemory = bytes
	})
}

// WithMaxStore limits the bytes of all streams on disk. The default is a
// quarter of the size of the file system that holds the store directory.
func WithMaxStore(bytes int64) Option {
	return option(func(c *config) {
		positive(c, "WithMaxStore", bytes)
		c.maxStore = bytes
	})
}

// WithMaxPayload is the embedded server's limit in bytes for one message with
// its headers, from 16 KiB to 8 MiB; the default is 1 MiB. The bus's own limit
// for a payload is 8 KiB lower.
func WithMaxPayload(bytes int) Option {
	return option(func(c *config) {
		if bytes < 2*payloadReserve || bytes > largestPayload {
			c.bad("WithMaxPayload", bytes, fmt.Sprintf("must lie between %d and %d", 2*payloadReserve, largestPayload))
		}
		c.maxPayload = bytes
	})
}

// WithTLS secures the connection to an existing server with t. A tls:// URL
// alone uses the system's certificate authorities.
func WithTLS(t *tls.Config) AccessOption {
	return forAccess(func(c *config) {
		if t == nil {
			c.bad("WithTLS", "nil", "give a configuration; a tls:// URL alone uses the system's authorities")
			return
		}
		c.addAccess("WithTLS", nats.Secure(t))
	})
}

// WithUser identifies the bus by name and password.
func WithUser(user, password string) AccessOption {
	return forAccess(func(c *config) {
		if user == "" {
			c.bad("WithUser", `""`, "the user is empty")
		}
		c.addAccess("WithUser", nats.UserInfoHandler(func() (string, string) { return user, password }))
	})
}

// WithToken identifies the bus by a token.
func WithToken(token string) AccessOption {
	return forAccess(func(c *config) {
		if token == "" {
			c.bad("WithToken", `""`, "the token is empty")
		}
		c.addAccess("WithToken", nats.TokenHandler(func() string { return token }))
	})
}

// WithCredentials identifies the bus by a NATS credentials file, which is read
// at each connect.
func WithCredentials(file string) AccessOption {
	return forAccess(func(c *config) {
		if _, err := os.Stat(file); err != nil {
			c.bad("WithCredentials", strconv.Quote(file), err.Error())
		}
		c.addAccess("WithCredentials", nats.UserCredentials(file))
	})
}

// WithNKey identifies the bus by the NKey whose seed is in seedFile.
func WithNKey(seedFile string) AccessOption {
	return forAccess(func(c *config) {
		o, err := nats.NkeyOptionFromSeed(seedFile)
		if err != nil {
			c.bad("WithNKey", strconv.Quote(seedFile), err.Error())
			return
		}
		c.addAccess("WithNKey", o)
	})
}

func (c *config) addAccess(name string, o nats.Option) {
	c.access = append(c.access, o)
	c.accessNames = append(c.accessNames, name)
}

// check looks at what only makes sense together.
func (c *config) check() error {
	if c.url == "" {
		for _, name := range c.accessNames {
			c.bad(name, "…", "identifies the bus to an existing server, but none is named; add WithURL, or protect the embedded server's port with WithServerOptions")
		}
	}
	if c.url != "" && c.listen != "" {
		c.logger.Warn("WithListen has no effect: it opens a port of the embedded server, and WithURL names another server", "listen", c.listen)
	}
	return errors.Join(c.errs...)
}

// withTimeout gives ctx the bus's default timeout where it has no deadline.
func (c *config) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.timeout)
}
