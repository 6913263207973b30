package embedded

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
)

// OpenPortError reports a port that other machines would reach, and that would ask nobody
// who he is.
type OpenPortError struct {
	Port string // what the port is for: "MQTT"
	Addr string // where it would listen
}

func (e *OpenPortError) Error() string {
	return fmt.Sprintf("the %s port on %s would be open to other machines and ask nobody who he is", e.Port, e.Addr)
}

// port is one port of a server.
type port struct {
	name string
	host string // empty: every interface
	port int    // 0: it is not open
	asks bool   // who connects must identify himself
}

// ports returns the ports that a server with these options has.
func ports(o *server.Options) []port {
	asks := asksClients(o)
	client := o.Port
	if o.DontListen {
		client = 0
	} else if client == 0 {
		client = server.DEFAULT_PORT
	}
	web, mqtt, leaf := &o.Websocket, &o.MQTT, &o.LeafNode
	return []port{
		{"client", o.Host, client, asks || asksCertificate(o.TLSConfig) && o.NoAuthUser == ""},
		{"WebSocket", web.Host, web.Port, asksPort(asks, web.NoAuthUser, web.Username, web.Token) || asksCertificate(web.TLSConfig)},
		{"MQTT", mqtt.Host, mqtt.Port, asksPort(asks, mqtt.NoAuthUser, mqtt.Username, mqtt.Token) || asksCertificate(mqtt.TLSConfig)},
		{"leaf node", leaf.Host, leaf.Port, asks || leaf.Username != "" || leaf.Nkey != "" || len(leaf.Users) > 0 || asksCertificate(leaf.TLSConfig)},
		{"cluster", o.Cluster.Host, o.Cluster.Port, o.Cluster.Username != "" || asksCertificate(o.Cluster.TLSConfig)},
		{"gateway", o.Gateway.Host, o.Gateway.Port, o.Gateway.Username != "" || asksCertificate(o.Gateway.TLSConfig)},
		{"monitoring", cmp.Or(o.HTTPHost, o.Host), o.HTTPPort, false},
		{"monitoring (HTTPS)", cmp.Or(o.HTTPHost, o.Host), o.HTTPSPort, asksCertificate(o.TLSConfig)},
		{"profiling", o.Host, o.ProfPort, false},
	}
}

// asksClients reports whether each client must identify itself. With a NoAuthUser one that
// does not is let in as that user.
func asksClients(o *server.Options) bool {
	return o.NoAuthUser == "" && (hasUsers(o) || o.CustomClientAuthentication != nil ||
		len(o.TrustedOperators) > 0 || len(o.TrustedKeys) > 0)
}

// hasUsers reports whether the options have users, keys or a token.
func hasUsers(o *server.Options) bool {
	return o.Users != nil || o.Nkeys != nil || o.Username != "" || o.Authorization != ""
}

// asksPort is asksClients for a port that may have settings of its own. They replace those
// of the server.
func asksPort(server bool, noAuthUser, username, token string) bool {
	if noAuthUser == "" && username == "" && token == "" {
		return server
	}
	return noAuthUser == ""
}

// asksCertificate reports whether clients must show a certificate.
func asksCertificate(c *tls.Config) bool {
	return c != nil && c.ClientAuth == tls.RequireAndVerifyClientCert
}

// open returns the ports that other machines reach and that ask nobody.
func open(o *server.Options) []*OpenPortError {
	var all []*OpenPortError
	for _, p := range ports(o) {
		if p.port == 0 || p.asks || isLoopback(p.host) {
			continue
		}
		number := strconv.Itoa(max(p.port, 0)) // -1 means any free port
		all = append(all, &OpenPortError{Port: p.name, Addr: net.JoinHostPort(cmp.Or(p.host, server.DEFAULT_HOST), number)})
	}
	return all
}

// isLoopback reports whether only this machine reaches a host. A name that has no address
// counts as one: the server cannot listen on it.
func isLoopback(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	if host == "" {
		return false
	}
	ips, _ := net.LookupIP(host) //nolint:noctx // the server, too, looks the name up without a context
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false
		}
	}
	return true
}

// checkPorts refuses ports that are open to everybody, unless UnsafePorts allows them. Then
// each is logged as a warning. It is called before the server starts.
func (c *Config) checkPorts(o *server.Options) error {
	var errs []error
	for _, e := range open(o) {
		if c.UnsafePorts {
			c.Logger.Warn(fmt.Sprintf("the %s port is open to other machines and asks nobody who he is", e.Port), "address", e.Addr)
			continue
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
