package bus

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/health"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/payload"
	"github.com/omnibus-go/bus/internal/slogsink"
	"github.com/omnibus-go/bus/internal/storedir"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Option is an option of New.
type Option interface{ configure(*config) }

// ConnectOption is an option of Connect and of New.
type ConnectOption interface {
	Option
	connectOption()
}

// option implements Option.
type option func(*config)

func (o option) configure(c *config) { o(c) }

// anywhere implements ConnectOption.
type anywhere struct{ option }

func (anywhere) connectOption() {}

func forConnect(f func(*config)) ConnectOption { return anywhere{f} }

// config is what the options say. It does not change once the bus is open.
type config struct {
	name       string
	version    string
	server     serverConfig // of New only
	auth       authConfig
	inbox      string // the prefix of the subjects of replies; empty: the default
	log        logConfig
	logger     hclog.Logger // made of log by apply
	payload    payloadConfig
	telemetry  telemetryConfig
	publish    publishConfig
	middleware []Middleware
	onEvent    func(event.Event)
	thresholds health.Thresholds

	timeout      time.Duration
	drainTimeout time.Duration

	env      string // the environment variable that is being read
	readsEnv bool   // FromEnv is among the options
	errs     []error
}

// logConfig says where the bus logs to.
type logConfig struct {
	logger hclog.Logger   // nil: the default one
	slog   *slogsink.Sink // what logger writes to, with WithSlog
	level  hclog.Level    // NoLevel: the logger's own
}

// telemetryConfig says where spans and metrics go; nil fields mean nowhere.
type telemetryConfig struct {
	tracer     trace.TracerProvider
	meter      metric.MeterProvider
	propagator propagation.TextMapPropagator
}

// publishConfig is about PublishAsync, PublishToAsync and Publish.
type publishConfig struct {
	bufferSize   int  // messages of PublishAsync
	bufferNoWait bool // a full buffer is an error
	window       int  // messages of PublishToAsync without an acknowledgement
	strict       bool
}

// listenConfig is where the embedded server listens.
type listenConfig struct {
	addr string // as the program wrote it; empty: no port
	host string // empty: every interface
	port int    // 0: any free port
}

// newConfig returns the defaults.
func newConfig() *config {
	return &config{
		name:         programName(),
		version:      programVersion(),
		server:       serverConfig{maxPayload: defaultMaxPayload},
		payload:      payloadConfig{codec: codec.JSON, minSize: defaultMinSize, maxDecoded: defaultMaxDecoded},
		publish:      publishConfig{bufferSize: defaultAsync, window: defaultWindow},
		thresholds:   health.Thresholds{}.WithDefaults(),
		timeout:      defaultTimeout,
		drainTimeout: defaultDrainTimeout,
	}
}

// apply runs the options in order. Of two options that set the same thing the later one
// counts.
func (c *config) apply(opts []Option) {
	for i, o := range opts {
		if o == nil {
			c.bad(fmt.Sprintf("option %d", i+1), "nil", "leave it out")
			continue
		}
		o.configure(c)
	}
	c.logger = c.log.open()
}

// open returns the logger with its level set.
func (l *logConfig) open() hclog.Logger {
	if l.logger == nil {
		l.logger = hclog.New(&hclog.LoggerOptions{Name: "bus", Level: hclog.Info})
	}
	if l.level != hclog.NoLevel {
		l.logger.SetLevel(l.level)
		if l.slog != nil {
			l.slog.MinLevel = l.level
		}
	}
	return l.logger
}

// envPrefix is how the variables of FromEnv begin.
const envPrefix = "OMNIBUS_"

// bad records an option whose value cannot be used.
func (c *config) bad(option string, value any, reason string) {
	if c.env != "" && !strings.Contains(reason, c.env) {
		reason += " (from the environment: " + c.env + ")"
	}
	c.errs = append(c.errs, &OptionError{Option: option, Value: fmt.Sprint(value), Reason: reason})
}

// badField records a field of an option whose value cannot be used. While the environment is
// read, it names the variable instead.
func (c *config) badField(option, field, value, reason string) {
	switch {
	case c.env == "":
	case field == "Name" || field == "URL":
		field = c.env
	default:
		field = c.env + "_" + strings.ToUpper(field)
	}
	c.bad(option, value, field+" "+reason)
}

// positive records a value that is not above zero.
func positive[N int | int64 | time.Duration](c *config, option string, v N) {
	if v <= 0 {
		c.bad(option, v, "must be more than zero")
	}
}

// smallestRoom is the least limit of memory or disk for streams, in bytes: that of the smallest WithMaxPayload.
const smallestRoom = 2 * outlet.PayloadReserve

// checkRoom records a limit of memory or disk in which no message has room, and reports whether
// the limit can be used.
func (c *config) checkRoom(option string, bytes int64) bool {
	if bytes > 0 && bytes < smallestRoom {
		c.bad(option, bytes, fmt.Sprintf("is a number of bytes, and must be at least %d, so that a message has room; 64 MiB are %d", smallestRoom, 64<<20))
	}
	positive(c, option, bytes)
	return bytes >= smallestRoom
}

// farthest is the longest time that an option takes. The server counts nanoseconds since 1970,
// which overflow in the year 2262: what is later would be in the past.
const farthest = 100 * 365 * 24 * time.Hour

// representable reports whether the server can represent a time: it counts nanoseconds.
func representable(t time.Time) bool { return time.Unix(0, t.UnixNano()).Equal(t) }

const (
	defaultTimeout      = 5 * time.Second
	defaultDrainTimeout = 25 * time.Second // Kubernetes kills a program after 30 s
	defaultAsync        = 4096
	largestAsync        = 1 << 20 // messages, for which the room is made at once
	defaultWindow       = 1024
	largestWindow       = 1 << 16
	defaultMaxPayload   = 1 << 20
	largestPrefix       = 64 // bytes, of WithInboxPrefix
	defaultMinSize      = 1024
	defaultMaxDecoded   = 64 << 20
	largestPayload      = 8 << 20 // above it the server warns, and clients must be sized for it
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// programName is the default name of a bus: the file name of the program.
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

// programVersion is the version of the main module, or 0.0.0.
func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		if v := strings.TrimPrefix(info.Main.Version, "v"); versionRule.MatchString(v) {
			return v
		}
	}
	return "0.0.0"
}

// check checks options that depend on each other, and returns all errors.
func (c *config) check() error {
	c.checkCredentials()
	c.checkModes()
	c.checkDiskOptions()
	c.warnOfListen()
	return errors.Join(c.errs...)
}

// warnOfListen logs what WithListen does not do.
func (c *config) warnOfListen() {
	if c.server.listen.addr == "" {
		return
	}
	switch {
	case c.server.followed:
		c.logger.Warn("WithListen has no effect: SwitchTo has moved the streams of the store directory, and no embedded server runs; let the clients of that port use the other server",
			"listen", c.server.listen.addr, "dir", c.server.storeDir, "server", link.Redact(c.server.url))
	case c.server.url != "":
		c.logger.Warn("WithListen has no effect: it opens a port of the embedded server, and WithURL names another server", "listen", c.server.listen.addr)
	default:
		for _, cr := range c.auth.credentials {
			if cr.env == "" {
				c.logger.Warn(cr.name+" does not protect the port of WithListen: it is for the server that SwitchTo moves the streams to; set up users of the port with WithServerOptions", "listen", c.server.listen.addr)
			}
		}
	}
}

// payloadConfig is what the options say of payloads.
type payloadConfig struct {
	codec      codec.Codec    // of types that imply none
	rules      []payload.Rule // of subjects; the first that matches holds
	codecs     []codec.Codec  // all that the bus can read beside the built-in ones
	encoding   string         // the compression of what is sent; empty for none
	minSize    int            // smaller payloads are not compressed, bytes
	maxDecoded int            // limit of a decompressed payload, bytes
}

// authConfig is how the bus identifies itself to an existing server.
type authConfig struct {
	credentials []credential  // in the order in which they were given
	options     []nats.Option // made of credentials by check
}

// credential is one way to identify the bus, or to secure its connection.
type credential struct {
	name   string // of the option
	who    string // what the server is told, for an error; empty for a certificate
	option nats.Option
	env    string  // the environment variable that it comes from; empty: the program's own
	errs   []error // what is wrong with it, where it comes from the environment
}

// String names the option, or the variable that stands for it.
func (cr credential) String() string { return cmp.Or(cr.env, cr.name) }

func (c *config) addAccess(name, who string, o nats.Option) {
	c.auth.credentials = append(c.auth.credentials, credential{name: name, who: who, option: o})
}

// identity says as whom the bus connects to a server, for an error; empty for nobody.
func (c *config) identity() string {
	for _, cr := range c.auth.credentials {
		if cr.who != "" {
			return cr.who
		}
	}
	first, _, _ := strings.Cut(c.server.url, ",")
	u, err := url.Parse(first)
	if err != nil || u.User == nil {
		return ""
	}
	if _, isUser := u.User.Password(); isUser {
		return fmt.Sprintf("user %q of the URL", u.User.Username())
	}
	return "the token of the URL"
}

// addFromEnv adds the credentials of o. They count only for an existing server, and whether
// there is one is known when all options are applied.
func (c *config) addFromEnv(o Option) {
	alone := &config{env: c.env}
	o.configure(alone)
	for i := range alone.auth.credentials {
		alone.auth.credentials[i].env = c.env
	}
	c.auth.credentials = append(c.auth.credentials, alone.auth.credentials...)
	c.auth.credentials = append(c.auth.credentials, credential{env: c.env, errs: alone.errs})
}

// checkCredentials makes connection options of the credentials. Without a URL those of the
// program are for the server that SwitchTo moves the streams of the store directory to, so that
// the program need not change before it starts again.
func (c *config) checkCredentials() {
	c.checkOneIdentity()
	for _, cr := range c.auth.credentials {
		switch {
		case c.server.url != "":
			c.errs = append(c.errs, cr.errs...)
			if cr.option != nil {
				c.auth.options = append(c.auth.options, cr.option)
			}
		case cr.env == "" && !c.server.canMove():
			c.bad(cr.name, "…", "identifies the bus to an existing server, but none is named; add WithURL, or WithStoreDir if SwitchTo moves the streams to such a server, or protect the embedded server's port with WithServerOptions")
		}
	}
}

// inheritAccess adds to c, which has what SwitchTo was given, the credentials of the bus, where
// it has none of its own. It returns what the bus lacks.
func (c *config) inheritAccess(bus *config) (lacks []string) {
	identity := func(cr credential) bool { return cr.name != "WithTLS" }
	secures := func(cr credential) bool { return cr.name == "WithTLS" }
	for _, kind := range []struct {
		is    func(credential) bool
		inURL bool
		what  string
	}{{identity, strings.Contains(c.server.url, "@"), "what identifies the bus"}, {secures, false, "WithTLS"}} {
		given := kind.inURL || slices.ContainsFunc(c.auth.credentials, kind.is)
		has := slices.ContainsFunc(bus.auth.credentials, kind.is)
		switch {
		case given && !has:
			lacks = append(lacks, kind.what)
		case !given:
			for _, cr := range bus.auth.credentials {
				if kind.is(cr) {
					c.auth.credentials = append(c.auth.credentials, cr)
				}
			}
		}
	}
	return lacks
}

// accessTo returns how a bus with the configuration c identifies itself to the servers of url, which
// are not its own. A file that cannot be read is left out.
func (c *config) accessTo(url string) []nats.Option {
	other := &config{}
	other.server.url = url
	other.inheritAccess(c)
	other.checkCredentials()
	return other.auth.options
}

// canMove reports whether SwitchTo can move the streams, and New finds them again.
func (s *serverConfig) canMove() bool { return s.storeDir != "" && s.cluster == nil && s.leaf == nil }

// checkDiskOptions refuses options for streams on disk where no option names a directory: who
// gives them does not expect streams in memory. WithStoreDir with an empty directory and FromEnv
// name one too, since a configuration chooses the mode there.
func (c *config) checkDiskOptions() {
	s := &c.server
	if s.url != "" || s.dirGiven || c.readsEnv {
		return
	}
	for _, o := range s.onDisk {
		c.bad(o.name, o.value, "is for streams on disk, and without WithStoreDir they are in memory; add WithStoreDir, or leave the option out")
	}
}

// checkOneIdentity refuses two ways to identify the bus. nats.go would use one of them, and
// which one depends on the server.
func (c *config) checkOneIdentity() {
	first, firstShown := "", ""
	for _, cr := range c.auth.credentials {
		switch {
		case cr.option == nil || cr.name == "WithTLS" || cr.name == first:
		case cr.env != "" && c.server.url == "": // it has no effect
		case first == "":
			first, firstShown = cr.name, cr.String()
		default:
			c.bad(cr.String(), "…", "a second way to identify the bus, after "+firstShown+"; give one of them")
			return
		}
	}
}

// serverConfig is what the options of New say of the server.
type serverConfig struct {
	url        string         // of an existing server; empty: embedded
	moved      *storedir.Move // where the streams of storeDir were moved to; nil if they were not
	followed   bool           // url is from moved
	storeDir   string         // empty: in memory
	dirGiven   bool           // WithStoreDir is among the options
	onDisk     []diskOption   // what the options say of streams on disk
	listen     listenConfig
	cluster    *Cluster      // nil: the server is in no cluster
	leaf       *leafConfig   // nil: the server is linked to no other one
	syncEvery  time.Duration // 0: each message is synced
	maxMemory  int64         // bytes; 0: the default
	maxStore   int64         // bytes; 0: the default
	maxPayload int           // bytes
	unsafe     bool          // ports may be open to everybody
	customize  []any         // func(*server.Options); only server.go knows the type
}

// diskOption is an option that counts only for streams on disk.
type diskOption struct {
	name  string
	value any
}

// checkURL records a URL that cannot be used. It names the URL without its password.
func (c *config) checkURL(option, list string) {
	for u := range strings.SplitSeq(list, ",") {
		if reason := urlProblem(strings.TrimSpace(u)); reason != "" {
			c.bad(option, fmt.Sprintf("%.*q", maxShownURL, link.Redact(list)), reason)
			return
		}
	}
}

// maxShownURL is how many characters of a list of URLs an error shows.
const maxShownURL = 300

// escapeHint is what to do where a password may be the reason why a URL cannot be read.
const escapeHint = "in a user name or password escape what is no letter or digit (url.PathEscape, and %2C for a comma), or use WithUser"

// urlProblem says what is wrong with one URL; "" for nothing.
func urlProblem(u string) string {
	if u == "" {
		return `is empty; use "nats://host:4222"`
	}
	if !strings.Contains(u, "://") {
		u = "nats://" + u
	}
	p, err := url.Parse(u)
	if err != nil || p.Hostname() == "" {
		return `is not a URL; use "nats://host:4222"; ` + escapeHint
	}
	switch p.Scheme {
	case "nats", "tls":
		if strings.Trim(p.Path, "/") != "" || p.RawQuery != "" || p.Fragment != "" {
			return `has more than a host and a port; use "nats://host:4222"; ` + escapeHint
		}
		return ""
	case "ws", "wss":
		return ""
	}
	if slices.Contains(otherSchemes, p.Scheme) {
		return fmt.Sprintf("has the scheme %q; use nats, tls, ws or wss", p.Scheme)
	}
	return "has an unknown scheme; use nats, tls, ws or wss; " + escapeHint
}

// otherSchemes are schemes that an error may name. Another one may be a part of a password.
var otherSchemes = []string{"http", "https", "tcp", "mqtt", "amqp", "redis", "kafka", "nats+tls"}
