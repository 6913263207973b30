package embedded

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// readyTimeout bounds how long a started server may take to accept connections. Reading
// the streams from disk is not part of it.
const readyTimeout = 10 * time.Second

// awaitReady waits until s accepts connections and its streams are healthy. The server
// reports failures only to its logger.
func (c *Config) awaitReady(s *server.Server, log *serverLog, opts *server.Options) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		select {
		case <-log.failed:
			return c.startError(opts, log.fatal)
		default:
		}
		if s.ReadyForConnections(10 * time.Millisecond) {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready for connections after %v", readyTimeout)
		}
	}
	if opts.Cluster.Port != 0 {
		return c.started(log, opts) // the cluster has no leader yet, and repairs what a node lacks
	}
	if err := askHealth(s, nil); err != nil {
		return &StoreError{Damaged: true, Err: fmt.Errorf(
			"the server cannot read what is stored: %w; restore the directory from a backup, or move the damaged stream out of %s", err, opts.StoreDir)}
	}
	return c.started(log, opts)
}

// started returns what the server said last if it did not start, or nil.
func (c *Config) started(log *serverLog, opts *server.Options) error {
	if fatal := log.markStarted(); fatal != "" {
		return c.startError(opts, fatal)
	}
	return nil
}

// Health returns nil while the server accepts connections and JetStream is healthy. A
// stream whose folder the server has and that it does not know is being created or removed
// at this moment: at the start the server knew all of them.
func (s *Server) Health() error {
	err := askHealth(s.server, func(e server.HealthzError) bool {
		return e.Type == server.HealthzErrorStream && strings.HasSuffix(e.Error, "could not be recovered")
	})
	if err == nil || s.config.Cluster == nil {
		return err
	}
	return fmt.Errorf("%w (a node of cluster %q needs most of the nodes; it is connected to %s); see that they run and reach its port %s, and that each names the same Peers, User and Password",
		err, s.config.Cluster.Name, s.otherNodes(), s.config.Cluster.Listen.Text)
}

// otherNodes names the nodes of the cluster that the server is connected to.
func (s *Server) otherNodes() string {
	var names []string
	if routes, err := s.server.Routez(nil); err == nil {
		for _, r := range routes.Routes {
			if !slices.Contains(names, r.RemoteName) {
				names = append(names, r.RemoteName)
			}
		}
	}
	if len(names) == 0 {
		return "no other node"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// askHealth asks the server for its health and leaves out the errors that ignore matches.
// It asks again while the answer is that the server is not ready: the server gives itself
// one millisecond for that check, which is not always enough on a busy machine.
func askHealth(s *server.Server, ignore func(server.HealthzError) bool) error {
	for try := 0; ; try++ {
		errs := s.Healthz(&server.HealthzOptions{Details: true}).Errors
		if ignore != nil {
			errs = slices.DeleteFunc(errs, ignore)
		}
		switch {
		case len(errs) == 0:
			return nil
		case errs[0].Type != server.HealthzErrorConn || try == maxHealthTries:
			return errors.New(errs[0].Error)
		}
	}
}

const maxHealthTries = 50
