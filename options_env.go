package bus

import (
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"
)

// FromEnv takes options from the environment, so that one binary runs embedded
// on a laptop and against a cluster in production:
//
//	OMNIBUS_URL            WithURL            OMNIBUS_NAME           WithName
//	OMNIBUS_STORE_DIR      WithStoreDir       OMNIBUS_TIMEOUT        WithTimeout ("5s")
//	OMNIBUS_LISTEN         WithListen         OMNIBUS_DRAIN_TIMEOUT  WithDrainTimeout
//	OMNIBUS_SYNC           WithSync ("always" or "1s")
//	OMNIBUS_MAX_MEMORY     WithMaxMemory (bytes)
//	OMNIBUS_MAX_STORE      WithMaxStore (bytes)
//	OMNIBUS_MAX_PAYLOAD    WithMaxPayload (bytes)
//	OMNIBUS_COMPRESSION    WithCompression ("zstd", "s2", "gzip")
//	OMNIBUS_LOG_LEVEL      the level of the default logger, or of WithLogger's
//	OMNIBUS_INBOX_PREFIX   WithInboxPrefix
//	OMNIBUS_USER and OMNIBUS_PASSWORD, OMNIBUS_TOKEN, OMNIBUS_CREDENTIALS,
//	OMNIBUS_NKEY (a file), OMNIBUS_TLS_CA (a file with the authorities)     (only with a URL)
//	OMNIBUS_LEAF           WithLeaf, Leaf.URL
//	OMNIBUS_LEAF_CREDENTIALS, OMNIBUS_LEAF_DOMAIN                           (only with OMNIBUS_LEAF)
//	OMNIBUS_CLUSTER        WithCluster, Cluster.Name
//	OMNIBUS_CLUSTER_PEERS  Cluster.Peers ("10.0.0.1:6222,10.0.0.2:6222")
//	OMNIBUS_CLUSTER_NODE, OMNIBUS_CLUSTER_LISTEN, OMNIBUS_CLUSTER_USER,
//	OMNIBUS_CLUSTER_PASSWORD                                                (only with OMNIBUS_CLUSTER, as the peers)
//
// An empty variable counts as absent. Options that come after FromEnv in the list replace
// those of the environment. What identifies the bus has an effect only if the bus
// has a URL after all options, or SwitchTo has moved the streams of its store directory. A variable that begins with OMNIBUS_ and is not listed is an
// error, because it is probably misspelt. Variables that Kubernetes makes for a service
// with the name omnibus, such as OMNIBUS_SERVICE_HOST and OMNIBUS_PORT, are ignored.
// Connect ignores OMNIBUS_URL and the variables for the embedded server.
func FromEnv() ConnectOption {
	return forConnect(func(c *config) { c.fromEnv(os.Environ()) })
}

// envOptions says what each variable does. A function returns the options it
// stands for, or an error that says what the value should have been.
var envOptions = map[string]func(value string) (Option, error){
	"URL":           func(v string) (Option, error) { return WithURL(v), nil },
	"STORE_DIR":     func(v string) (Option, error) { return WithStoreDir(v), nil },
	"LISTEN":        func(v string) (Option, error) { return WithListen(v), nil },
	"NAME":          func(v string) (Option, error) { return WithName(v), nil },
	"TOKEN":         func(v string) (Option, error) { return WithToken(v), nil },
	"CREDENTIALS":   func(v string) (Option, error) { return WithCredentials(v), nil },
	"NKEY":          func(v string) (Option, error) { return WithNKey(v), nil },
	"TLS_CA":        func(v string) (Option, error) { return option(func(c *config) { c.trust(v) }), nil },
	"INBOX_PREFIX":  func(v string) (Option, error) { return WithInboxPrefix(v), nil },
	"COMPRESSION":   func(v string) (Option, error) { return WithCompression(Compression{Encoding: v}), nil },
	"TIMEOUT":       durationOption(func(d time.Duration) Option { return WithTimeout(d) }),
	"DRAIN_TIMEOUT": durationOption(func(d time.Duration) Option { return WithDrainTimeout(d) }),
	"MAX_MEMORY":    bytesOption(WithMaxMemory),
	"MAX_STORE":     bytesOption(WithMaxStore),
	"MAX_PAYLOAD":   bytesOption(func(n int64) Option { return WithMaxPayload(int(min(n, math.MaxInt32))) }),
	"SYNC":          syncOption,
	"LOG_LEVEL":     logLevelOption,
	"USER":          nil, // together with PASSWORD, see userFromEnv
	"PASSWORD":      nil,
	"LEAF":          nil, // see leafFromEnv
	"CLUSTER":       nil, // see clusterFromEnv

	"LEAF_CREDENTIALS": nil,
	"LEAF_DOMAIN":      nil,
	"CLUSTER_PEERS":    nil,
	"CLUSTER_NODE":     nil,
	"CLUSTER_LISTEN":   nil,
	"CLUSTER_USER":     nil,
	"CLUSTER_PASSWORD": nil,
}

// ofKubernetes matches what Kubernetes tells each container of a service.
var ofKubernetes = regexp.MustCompile(`^(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// credentialVariables only make sense with a URL; without one they are left
// alone so that one environment serves both modes.
var credentialVariables = map[string]bool{"TOKEN": true, "CREDENTIALS": true, "NKEY": true, "TLS_CA": true}

// fromEnv applies the variables of environ in the order of their names.
func (c *config) fromEnv(environ []string) {
	vars := make(map[string]string)
	names := []string{}
	for _, line := range environ {
		name, value, _ := strings.Cut(line, "=")
		if name, ok := strings.CutPrefix(name, envPrefix); ok && value != "" {
			vars[name] = value
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		c.fromVariable(name, vars[name])
	}
	c.userFromEnv(vars["USER"], vars["PASSWORD"])
	c.leafFromEnv(vars)
	c.clusterFromEnv(vars)
	c.env, c.readsEnv = "", true
}

// leafFromEnv adds the link that the variables describe. Those that only describe it have no
// effect without the one that wants it, so that one line chooses the mode.
func (c *config) leafFromEnv(vars map[string]string) {
	if vars["LEAF"] == "" {
		return
	}
	c.env = envPrefix + "LEAF"
	WithLeaf(Leaf{URL: vars["LEAF"], Credentials: vars["LEAF_CREDENTIALS"], Domain: vars["LEAF_DOMAIN"]}).configure(c)
}

// clusterFromEnv adds the cluster that the variables describe, as leafFromEnv does.
func (c *config) clusterFromEnv(vars map[string]string) {
	if vars["CLUSTER"] == "" {
		return
	}
	c.env = envPrefix + "CLUSTER"
	n := Cluster{Name: vars["CLUSTER"], Node: vars["CLUSTER_NODE"], Listen: vars["CLUSTER_LISTEN"], User: vars["CLUSTER_USER"], Password: vars["CLUSTER_PASSWORD"]}
	for peer := range strings.SplitSeq(vars["CLUSTER_PEERS"], ",") {
		if peer = strings.TrimSpace(peer); peer != "" {
			n.Peers = append(n.Peers, peer)
		}
	}
	WithCluster(n).configure(c)
}

// userFromEnv adds the user whom two variables describe.
func (c *config) userFromEnv(user, password string) {
	c.env = envPrefix + "USER"
	switch {
	case user != "":
		c.addFromEnv(WithUser(user, password))
	case password != "":
		c.addFromEnv(option(func(c *config) {
			c.bad("FromEnv", envPrefix+"PASSWORD", "has no effect without "+envPrefix+"USER")
		}))
	}
}

// fromVariable applies one variable. name has no prefix.
func (c *config) fromVariable(name, value string) {
	parse, known := envOptions[name]
	if ofKubernetes.MatchString(name) {
		return
	}
	if !known {
		c.bad("FromEnv", envPrefix+name, "is not a variable of Omnibus"+meant(name)+"; the variables are "+envPrefix+strings.Join(slices.Sorted(maps.Keys(envOptions)), ", "+envPrefix))
		return
	}
	if parse == nil {
		return
	}
	c.env = envPrefix + name
	defer func() { c.env = "" }()
	o, err := parse(value)
	switch {
	case err != nil:
		c.bad("FromEnv", value, err.Error())
	case credentialVariables[name]:
		c.addFromEnv(o)
	default:
		o.configure(c)
	}
}

// trust has the bus trust the authorities in a PEM file, and no others, which are read at each connect.
func (c *config) trust(file string) {
	if c.checkSecretFile("WithTLS", file) {
		c.addAccess("WithTLS", "", nats.RootCAs(file))
	}
}

// meant suggests the variable whose name is most like an unknown one; "" if none is like it.
func meant(name string) string {
	best, least := "", 3
	for known := range maps.Keys(envOptions) {
		if d := distance(name, known); d < least || d == least && known < best {
			best, least = known, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + envPrefix + best + "?"
}

// distance is how many letters differ between a and b: changed, missing or too many.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func durationOption(with func(time.Duration) Option) func(string) (Option, error) {
	return func(v string) (Option, error) {
		d, err := time.ParseDuration(v)
		if err != nil {
			return nil, fmt.Errorf(`is not a duration; use "5s" or "1m30s"`)
		}
		return with(d), nil
	}
}

func bytesOption(with func(int64) Option) func(string) (Option, error) {
	return func(v string) (Option, error) {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("is not a number of bytes")
		}
		return with(n), nil
	}
}

func syncOption(v string) (Option, error) {
	if v == SyncAlways.String() {
		return WithSync(SyncAlways), nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return nil, fmt.Errorf(`is neither "always" nor a duration such as "1s"`)
	}
	return WithSync(SyncEvery(d)), nil
}

func logLevelOption(v string) (Option, error) {
	level := hclog.LevelFromString(v)
	if level == hclog.NoLevel {
		return nil, fmt.Errorf("is not a level; use trace, debug, info, warn, error or off")
	}
	return option(func(c *config) { c.log.level = level }), nil
}
