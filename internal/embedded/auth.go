package embedded

import (
	"slices"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// inProcess is the server's name for connections from inside the process.
const inProcess = "IN_PROCESS"

// letBusIn lets the bus in where the options have the server authenticate its clients: by
// a key of its own, which works only inside this process. It returns the options with
// which the bus shows that key. With private the server has a port that the program did not ask
// for; then that key lets nobody else in.
func letBusIn(o *server.Options, private bool) ([]nats.Option, error) {
	if custom := o.CustomClientAuthentication; custom != nil {
		o.CustomClientAuthentication = trustInProcess{custom}
		return nil, nil
	}
	if !private && !hasUsers(o) {
		return nil, nil
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	o.Nkeys = append(slices.Clip(o.Nkeys), &server.NkeyUser{Nkey: public,
		AllowedConnectionTypes: map[string]struct{}{inProcess: {}}})
	return []nats.Option{nats.Nkey(public, key.Sign)}, nil
}

// trustInProcess authenticates other clients, and trusts the bus in this process.
type trustInProcess struct{ others server.Authentication }

// Check implements server.Authentication.
func (a trustInProcess) Check(c server.ClientAuthentication) bool {
	if addr := c.RemoteAddress(); addr != nil && addr.Network() == "pipe" {
		return true
	}
	return a.others.Check(c)
}
