package bus_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// room is a package of the house: how high it lies and what it may import
// besides the standard library, each with the reason. Paths below the module are
// written without it; those of other modules are prefixes.
type room struct {
	floor   int // a package imports only packages of lower floors
	imports map[string]string
}

const (
	natsGo     = "github.com/nats-io/nats.go"
	natsServer = "github.com/nats-io/nats-server/v2/server"
	otelAPI    = "go.opentelemetry.io/otel"
	ourModule  = "github.com/omnibus-go/bus"
)

// house is the import graph of the library. A new entry needs a reason that
// convinces whoever reads it next; an entry that is no longer used fails too.
var house = map[string]room{
	"codec": {floor: 0, imports: map[string]string{
		"github.com/fxamacker/cbor/v2":                    "the CBOR codec",
		"google.golang.org/protobuf/proto":                "the Protobuf codec; nothing else may know protobuf",
		"google.golang.org/protobuf/encoding/protojson":   "messages in JSON have a form of their own, which encoding/json neither writes nor reads",
		"google.golang.org/protobuf/encoding/protowire":   "weighs messages before they are decoded",
		"google.golang.org/protobuf/reflect/protoreflect": "weighs messages before they are decoded",
	}},

	"event":                  {floor: 0},
	"internal/serverversion": {floor: 0},
	"internal/access":        {floor: 0},
	"internal/permissions":   {floor: 0},
	"internal/plural":        {floor: 0},
	"health":                 {floor: 0},
	"switchover": {floor: 1, imports: map[string]string{
		"internal/plural": "counts in texts",
	}},
	"stats": {floor: 0},

	"internal/capacity": {floor: 1},
	"internal/deadline": {floor: 1},
	"internal/dedup":    {floor: 1},
	"internal/jserr": {floor: 1, imports: map[string]string{
		natsGo: "the server's answers to the JetStream client",
	}},

	"internal/limits": {floor: 1, imports: map[string]string{
		"golang.org/x/sys": "the size of the memory and of the file system",
	}},
	"internal/storedir": {floor: 1, imports: map[string]string{
		"golang.org/x/sys":             "asks whether a file can be written",
		"github.com/gofrs/flock":       "the lock of the directory on every system",
		"github.com/minio/highwayhash": "the checksums in the server's files, to tell which a crash left half written",
	}},
	"internal/slogsink": {floor: 1, imports: map[string]string{
		"github.com/hashicorp/go-hclog": "what writes to slog",
	}},
	"internal/subject": {floor: 1},
	"internal/telemetry": {floor: 1, imports: map[string]string{
		otelAPI: "spans and metrics; the API only, the SDK is the program's",
	}},
	"internal/wire": {floor: 2, imports: map[string]string{
		"codec":                         "content negotiation chooses one",
		"github.com/klauspost/compress": "zstd, s2 and a faster gzip",
	}},

	"internal/lifecycle": {floor: 6, imports: map[string]string{
		"internal/plural": "counts in texts",
	}},
	"internal/settle": {floor: 1},
	"internal/dispatch": {floor: 3, imports: map[string]string{
		"internal/plural": "counts in texts",
		"internal/wire":   "what it queues: deliveries",
	}},
	"internal/link": {floor: 3, imports: map[string]string{
		"internal/permissions":   "subjects of the library's own are not remembered one by one",
		"internal/serverversion": "what the connected server can do",
		"internal/wire":          "what it sends",
		natsGo:                   "the connection it owns",
	}},

	"internal/ownership": {floor: 7, imports: map[string]string{
		"internal/permissions": "how its subjects begin",
		"internal/sidestream":  "names of what it stores, and the form of a message that travels",
		"internal/dispatch":    "runs the messages that other processes assign",
		"internal/jserr":       "the server's refusals",
		"internal/link":        "the connection",
		"internal/settle":      "outcomes and reasons of dead letters",
		"internal/wire":        "deliveries and headers",
		natsGo:                 "subscriptions and their messages",
	}},
	"internal/intake": {floor: 4, imports: map[string]string{
		"internal/plural":    "counts in texts",
		"internal/deadline":  "records outlast the end of a drain a little",
		"internal/dispatch":  "runs what it takes in",
		"internal/link":      "the connection it takes from",
		"internal/settle":    "decides what becomes of a message",
		"internal/telemetry": "the names of settlements",
		"internal/wire":      "what it hands on: deliveries",
		natsGo:               "subscriptions and their messages",
	}},
	"internal/jsapi": {floor: 4, imports: map[string]string{
		"internal/jserr": "the numbers of the server's errors",
		"internal/link":  "watches for the refusal of a request",
		natsGo:           "the JetStream client",
	}},
	"internal/outlet": {floor: 4, imports: map[string]string{
		"internal/plural":        "counts in texts",
		"internal/dedup":         "the message IDs of streams that moved",
		"internal/serverversion": "whether the server stores batches as a whole",
		"internal/jserr":         "the server's refusals",
		"internal/dispatch":      "notes which goroutine tells what could not be sent: it may close the bus",
		"internal/link":          "the gate and the connection",
		"internal/subject":       "the pattern that a subject was made from, for metrics",
		"internal/telemetry":     "one place for counters and spans of what is sent",
		"internal/wire":          "what it sends",
		natsGo:                   "replies and the errors of the connection",
	}},

	"internal/reader": {floor: 4, imports: map[string]string{
		"internal/link":          "the connection it reads over",
		"internal/serverversion": "whether the server sends batches",
		"internal/wire":          "what it hands on: deliveries",
		natsGo:                   "the inbox, and the server's errors",
	}},

	"internal/core": {floor: 5, imports: map[string]string{
		"event":                         "what it reports",
		"internal/deadline":             "deadlines of short calls",
		"internal/jserr":                "the server's refusal of a stream",
		"internal/link":                 "the connection",
		"internal/outlet":               "the way out",
		"internal/telemetry":            "counters, spans and metrics",
		natsGo:                          "the JetStream client",
		"github.com/hashicorp/go-hclog": "the logger",
	}},

	"internal/capture": {floor: 6, imports: map[string]string{
		"internal/core":    "the server it asks",
		"internal/subject": "finds the pattern that matches",
		"internal/wire":    "whether a switch home has fenced a stream",
		natsGo:             "what the server says of a stream",
	}},

	"internal/switchover": {floor: 8, imports: map[string]string{
		"internal/permissions":          "what the user at the target needs",
		"internal/plural":               "counts in texts",
		"internal/link":                 "which permission the target says is missing",
		"internal/intake":               "the messages that a bus holds, when streams come home",
		"switchover":                    "what it reports and returns",
		"internal/subject":              "subjects that two streams would store",
		"internal/wire":                 "the incarnation that a copy carries",
		"internal/dedup":                "gathers the message IDs of the streams",
		"internal/jserr":                "the server's error numbers",
		natsGo:                          "its connections to both servers",
		natsServer + "/archive":         "the entries of a snapshot; it is small, and imports nothing of the server",
		"github.com/klauspost/compress": "snapshots are compressed with s2",
	}},
	"internal/embedded": {floor: 8, imports: map[string]string{
		"internal/permissions":          "the subjects that do not cross a leaf link",
		"health":                        "the state of the leaf link",
		"github.com/nats-io/nuid":       "how an edge knows what it said itself",
		"internal/jserr":                "whether the server refused a message because it has no room",
		"internal/limits":               "defaults for memory and disk",
		"internal/storedir":             "the lock and the identity of a store directory",
		natsServer:                      "the server",
		natsGo:                          "how the bus identifies itself to the server",
		"github.com/nats-io/nkeys":      "the key by which the bus enters its own server where that authenticates",
		"github.com/hashicorp/go-hclog": "the log",
	}},

	"internal/discovery": {floor: 6, imports: map[string]string{
		"event":                   "what it reports",
		"internal/core":           "the connection, the way out and the report of events",
		"internal/intake":         "the subscriptions of the protocol",
		"internal/link":           "the error of a refused subscription",
		"internal/outlet":         "the answers that it sends",
		"internal/wire":           "the requests",
		natsGo:                    "the micro protocol",
		"github.com/nats-io/nuid": "the ID of the service",
	}},

	"internal/payload": {floor: 6, imports: map[string]string{
		"codec":              "the codec of each message is chosen here",
		"internal/outlet":    "the messages that it fills",
		"internal/subject":   "the rules are for patterns",
		"internal/telemetry": "the counters of compression",
		"internal/wire":      "headers, content types and compression",
	}},
	"internal/deadletter": {floor: 8, imports: map[string]string{
		"internal/core":       "the JetStream client, the way out and timeouts",
		"internal/jserr":      "its own errors",
		"internal/outlet":     "looks up what waits for a consumer",
		"internal/reader":     "reads dead letters without a consumer",
		"internal/sidestream": "where dead letters are, and where a redrive stores copies",
		"internal/subject":    "filters",
		"internal/wire":       "what it reads: deliveries",
		natsGo:                "consumers and the removal of messages",
	}},
	"internal/recovery": {floor: 7, imports: map[string]string{
		"internal/plural":     "counts in texts",
		"internal/core":       "the JetStream client, the connection and timeouts",
		"internal/jserr":      "the server's refusals, and its own errors",
		"internal/settle":     "the reason of a dead letter that could not be stored",
		"internal/sidestream": "where it keeps its records",
		"internal/wire":       "what it knows about: deliveries",
		natsGo:                "reads and writes records",
	}},
	"internal/sidestream": {floor: 6, imports: map[string]string{
		"internal/permissions":   "how its subjects begin",
		"switchover":             "a stream that is what a switch home has left",
		"internal/serverversion": "whether the server keeps messages until a time",
		"internal/core":          "the JetStream client, the way out and timeouts",
		"internal/deadline":      "the creation of a consumer outlasts its call, to be undone",
		"internal/intake":        "it is a source of messages that come back",
		"internal/jserr":         "the server's refusals, and its own errors",
		"internal/link":          "whether the user may not delete single messages",
		"internal/outlet":        "stores copies",
		"internal/settle":        "bounds the reason of a dead letter that it reads",
		"internal/wire":          "what it copies: deliveries and headers",
		natsGo:                   "streams and consumers",
		otelAPI:                  "the trace of the handler call that failed",
	}},
	"internal/consumer": {floor: 8, imports: map[string]string{
		"internal/permissions":    "the subjects of a durable, which it tries",
		"internal/outlet":         "looks up stored messages that a durable has passed",
		"event":                   "what it reports",
		"internal/core":           "the connection, the JetStream client, timeouts and telemetry",
		"internal/deadline":       "the creation of a durable outlasts its call, to be undone",
		"internal/dispatch":       "the handler calls that run, and which goroutine drains",
		"internal/intake":         "takes messages",
		"internal/jserr":          "its own errors",
		"internal/lifecycle":      "stops once, quiesces, and one Rewind at a time",
		"internal/serverversion":  "whether the server can keep the order of keys of several processes",
		"internal/ownership":      "shares a durable with keys between processes",
		"internal/reader":         "how old the first message is that waits",
		"internal/recovery":       "what the next process knows of unfinished messages",
		"internal/settle":         "outcomes of handler calls",
		"internal/sidestream":     "S-dead and S-retry",
		"internal/streamdef":      "the first message since a time, for Rewind",
		"internal/subject":        "compares filters",
		"internal/telemetry":      "counters and spans of settlements",
		"internal/wire":           "deliveries",
		natsGo:                    "the consumer on the server",
		"github.com/nats-io/nuid": "names a process that shares a durable",
	}},
	"internal/streamdef": {floor: 7, imports: map[string]string{
		"switchover":         "a stream that is what a switch home has left",
		"internal/subject":   "which subjects of streams overlap",
		"internal/core":      "the server it asks",
		"internal/jserr":     "the error of an operation that failed",
		"internal/lifecycle": "the lock of declarations, which honours a context",
		"internal/wire":      "the request of a purge",
		natsGo:               "the configuration of a stream",
	}},

	"": {floor: 10, imports: map[string]string{
		"internal/plural":               "counts in texts",
		"internal/serverversion":        "which server a call needs",
		"internal/streamdef":            "declares streams",
		"internal/capture":              "which subjects streams store",
		"internal/discovery":            "discovery of responders",
		"internal/payload":              "values to payloads and back",
		"event":                         "WithEvents",
		"health":                        "Bus.Health",
		"stats":                         "Bus.Stats",
		"internal/core":                 "what the parts of a bus share",
		"internal/capacity":             "refusals for lack of room",
		"internal/jsapi":                "the JetStream client",
		"internal/jserr":                "the server's error numbers",
		"switchover":                    "Bus.SwitchTo",
		"internal/dedup":                "the message IDs of streams that moved",
		"internal/switchover":           "moves the streams to another server",
		"internal/access":               "what the other public packages need of it and users do not",
		"codec":                         "WithCodec and As take one",
		"internal/consumer":             "takes part in durable consumers",
		"internal/sidestream":           "S-dead, S-retry and S-keys",
		"internal/recovery":             "what the next process knows of unfinished messages",
		"internal/deadletter":           "lists and redrives dead letters",
		"internal/dispatch":             "notes which goroutine closes the bus",
		"internal/intake":               "the way in",
		"internal/lifecycle":            "what lives on a bus, and how it stops",
		"internal/link":                 "the connection",
		"internal/outlet":               "the way out",
		"internal/reader":               "reads streams without a consumer",
		"internal/settle":               "the retry policy",
		"internal/slogsink":             "WithSlog",
		"internal/storedir":             "the lock and the identity of a store directory",
		"internal/subject":              "subjects and patterns",
		"internal/telemetry":            "counters, spans and metrics",
		"internal/wire":                 "headers, compression, content negotiation",
		natsGo:                          "Bus.Conn, Bus.JetStream and access options",
		natsServer:                      "WithServerOptions; only server.go, so that Connect does not link it",
		"internal/embedded":             "the embedded server; only server.go",
		"github.com/nats-io/nuid":       "identifiers of service instances, in the form the micro protocol has",
		"github.com/hashicorp/go-hclog": "WithLogger",
		otelAPI:                         "WithTracerProvider, WithMeterProvider, WithPropagator",
	}},

	"bustest": {floor: 11, imports: map[string]string{
		"":                              "it makes buses",
		"github.com/hashicorp/go-hclog": "the logger that writes to the test",
		natsServer + "/ats":             "the server's clock, which virtual time needs outside the bubble",
	}},
	"codec/codectest": {floor: 11, imports: map[string]string{
		"codec":                            "what it tests",
		"google.golang.org/protobuf/proto": "equality of messages",
		"google.golang.org/protobuf/types/known/durationpb": "a message among the edge values",
	}},
	"middleware": {floor: 11, imports: map[string]string{
		"":                              "the Middleware type",
		"internal/access":               "whether an error is of bus.Postpone, and whether a context is of a batch",
		"internal/slogsink":             "the logging middleware for slog",
		"github.com/hashicorp/go-hclog": "the logging middleware",
		"github.com/sony/gobreaker/v2":  "the circuit breaker",
		"golang.org/x/time/rate":        "the throttle",
	}},
	"examples/quickstart": {floor: 12, imports: map[string]string{
		"": "what it shows",
	}},
	"examples/edge": {floor: 12, imports: map[string]string{
		"":                              "what it shows",
		"github.com/hashicorp/go-hclog": "a logger that logs nothing",
		natsServer:                      "the port for leaf nodes",
		natsGo:                          "the sources of a stream",
	}},
	"examples/graduate": {floor: 12, imports: map[string]string{
		"":                              "what it shows",
		"switchover":                    "what it shows",
		"github.com/hashicorp/go-hclog": "a logger that logs nothing",
	}},
	"examples/ingest": {floor: 12, imports: map[string]string{
		"":      "what it shows",
		"codec": "the name of a compression",
	}},

	// For tests only; TestHouse sees to that.
	"internal/leakcheck":          {floor: 0},
	"internal/telemetry/oteltest": {floor: 0, imports: map[string]string{otelAPI: "recording providers without the SDK"}},
	"internal/testserver/testcore": {floor: 6, imports: map[string]string{
		"event":                         "the type of what a core reports",
		"internal/core":                 "what it makes",
		"internal/jsapi":                "the JetStream client",
		"internal/outlet":               "the way out",
		"internal/testserver":           "the server",
		"github.com/hashicorp/go-hclog": "a logger that writes nothing",
	}},
	"internal/testserver": {floor: 4, imports: map[string]string{
		"internal/link": "tests reach the server over a link",
		natsGo:          "a plain client",
		natsServer:      "the server it runs",
	}},
}

// forTests are the packages that no other imports outside its tests.
var forTests = []string{"bustest", "codec/codectest", "internal/leakcheck", "internal/telemetry/oteltest", "internal/testserver", "internal/testserver/testcore"}

// testImports is what tests may import beyond what the house does: it reaches
// the go.sum of every user, so no assertion libraries, no mocks.
var testImports = map[string]string{
	"google.golang.org/protobuf/types": "ready-made protobuf messages, for tests of the codec",
	"github.com/nats-io/jwt/v2":        "credentials files, for tests of access; nats-server has it anyway",
}

// onlyIn confines an import to one file of the root package. internal/embedded, which
// runs the server, may import nats-server too.
var onlyIn = map[string]string{natsServer: "server.go", ourModule + "/internal/embedded": "server.go"}

// goPackage is what `go list` tells of one package.
type goPackage struct {
	ImportPath, Dir           string
	GoFiles                   []string
	Imports                   []string
	TestImports, XTestImports []string
}

// listPackages asks the go command for our packages on every system that has
// files of its own: a build for one system leaves the files of others out.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	merged := make(map[string]*goPackage)
	for _, system := range []string{"linux", "darwin", "freebsd", "windows"} {
		for _, p := range listFor(t, system) {
			m := merged[p.ImportPath]
			if m == nil {
				merged[p.ImportPath] = &p
				continue
			}
			m.GoFiles = union(m.GoFiles, p.GoFiles)
			m.Imports = union(m.Imports, p.Imports)
			m.TestImports = union(m.TestImports, p.TestImports)
			m.XTestImports = union(m.XTestImports, p.XTestImports)
		}
	}
	var all []goPackage
	for _, path := range slices.Sorted(maps.Keys(merged)) {
		all = append(all, *merged[path])
	}
	return all
}

func listFor(t *testing.T, system string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e",
		"-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// inHouse returns path without the module, and whether it is ours.
func inHouse(path string) (string, bool) {
	if path == ourModule {
		return "", true
	}
	return strings.CutPrefix(path, ourModule+"/")
}

// outside returns those of imports that are neither ours nor the standard library's.
func outside(imports []string) []string {
	return slices.DeleteFunc(slices.Clone(imports), func(path string) bool {
		_, ours := inHouse(path)
		first, _, _ := strings.Cut(path, "/")
		return ours || !strings.Contains(first, ".")
	})
}

// entryFor returns the longest key of entries that is path or a folder above it.
func entryFor(entries map[string]string, path string) (key string, ok bool) {
	for k := range entries {
		if (path == k || strings.HasPrefix(path, k+"/")) && k != "" && len(k) >= len(key) {
			key, ok = k, true
		}
	}
	return key, ok
}

// TestHouse pins who may import whom.
func TestHouse(t *testing.T) {
	t.Parallel()
	packages := listPackages(t)
	seen := make(map[string]bool)
	for _, p := range packages {
		name, _ := inHouse(p.ImportPath)
		seen[name] = true
		r, known := house[name]
		if !known {
			t.Errorf("package %q is not in the house: enter it in deps_test.go, with its floor and what it may import", name)
			continue
		}
		checkRoom(t, name, r, p)
	}
	for name := range house {
		if !seen[name] {
			t.Errorf("package %q is in the house of deps_test.go and does not exist", name)
		}
	}
}

// checkRoom compares what one package imports with what it may.
func checkRoom(t *testing.T, name string, r room, p goPackage) {
	t.Helper()
	used := make(map[string]bool)
	for _, path := range p.Imports {
		if own, ours := inHouse(path); ours {
			used[own] = true
			checkOwn(t, name, r, own)
		}
	}
	for _, path := range outside(p.Imports) {
		key, ok := entryFor(r.imports, path)
		used[key] = true
		if !ok {
			t.Errorf("%q imports %s: enter it in deps_test.go with a reason, or do without", name, path)
		}
	}
	for key, reason := range r.imports {
		if !used[key] {
			t.Errorf("%q no longer imports %q (%s): remove the entry", name, key, reason)
		}
		if reason == "" {
			t.Errorf("%q may import %q without a reason", name, key)
		}
	}
}

// checkOwn looks at one import of a package of ours.
func checkOwn(t *testing.T, name string, r room, own string) {
	t.Helper()
	if _, ok := r.imports[own]; !ok {
		t.Errorf("%q imports our %q: enter it in deps_test.go with a reason, or do without", name, own)
	}
	if house[own].floor >= r.floor {
		t.Errorf("%q (floor %d) imports our %q (floor %d): imports go down only", name, r.floor, own, house[own].floor)
	}
	if slices.Contains(forTests, own) && !slices.Contains(forTests, name) {
		t.Errorf("%q imports %q, which is for tests", name, own)
	}
}

// TestHouseTests keeps what tests import small, since users download it.
func TestHouseTests(t *testing.T) {
	t.Parallel()
	allowed := maps.Clone(testImports)
	for _, r := range house {
		maps.Copy(allowed, r.imports)
	}
	used := make(map[string]bool)
	for _, p := range listPackages(t) {
		for _, path := range outside(union(p.TestImports, p.XTestImports)) {
			key, ok := entryFor(allowed, path)
			used[key] = true
			if !ok {
				t.Errorf("a test of %s imports %s: what tests import reaches users' go.sum", p.ImportPath, path)
			}
		}
	}
	for key, reason := range testImports {
		if !used[key] {
			t.Errorf("no test imports %q (%s) any more: remove the entry", key, reason)
		}
	}
}

// TestServerIsInOneFile guards the size of programs that only connect; see
// TestConnectDoesNotLinkTheServer for what depends on it. Packages for tests may import
// the server: no program imports them. An example shows WithServerOptions.
func TestServerIsInOneFile(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		name, _ := inHouse(p.ImportPath)
		if slices.Contains(forTests, name) || name == "internal/embedded" || name == "examples/edge" {
			continue
		}
		for _, file := range p.GoFiles {
			for path := range importsOf(t, p.Dir, file) {
				if only, confined := onlyIn[path]; confined && (name != "" || file != only) {
					t.Errorf("%s/%s imports %s: only %s may", name, file, path, only)
				}
			}
		}
	}
}
