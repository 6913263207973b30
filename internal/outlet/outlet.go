package outlet

import (
	"time"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/telemetry"
)

// Outlet sends the messages of one bus. Safe for concurrent use.
type Outlet struct {
	link     *link.Link
	tel      *telemetry.Telemetry // nil if telemetry is off
	counters *telemetry.Bus
	batches  chan struct{} // holds one element for each batch that is being sent

	attemptTimeout time.Duration // the constant attemptTimeout; tests set another
}

// New returns the outlet of a bus. t is nil if telemetry is off.
func New(l *link.Link, t *telemetry.Telemetry, c *telemetry.Bus) *Outlet {
	return &Outlet{link: l, tel: t, counters: c, batches: make(chan struct{}, maxBatches), attemptTimeout: attemptTimeout}
}
