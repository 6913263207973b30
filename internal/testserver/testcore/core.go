// Package testcore makes the core of a bus for tests of the packages above it. A core of
// this package has a link to a test server, a way out and a JetStream client. It has no
// telemetry, reports nothing and never stops. Its link is closed when the test ends.
package testcore

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jsapi"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
)

// timeout is that of calls whose context has no deadline.
const timeout = 10 * time.Second

// New returns a core that is connected to s.
func New(t testing.TB, s *testserver.Server) *core.Core {
	t.Helper()
	c := &core.Core{Link: s.Link(t), Logger: hclog.NewNullLogger(), Report: func(event.Event) {}, Timeout: timeout,
		DrainTimeout: timeout, Handlers: t.Context(), Stopping: make(chan struct{})}
	var err error
	if c.JetStream, err = jsapi.New(c.Link, false, func(string) error { return nil }); err != nil {
		t.Fatalf("testcore: %v", err)
	}
	c.Outlet = outlet.New(c.Link, nil, &c.Counters)
	return c
}
