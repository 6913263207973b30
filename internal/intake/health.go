package intake

import (
	"context"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// reports is what a Durable has to report, and the reporter: a goroutine of its own,
// since whoever gets a report may take long, or end the Durable. Guarded by Durable.mu.
type reports struct {
	pending  []func()           // each reports something, or acts on it
	reporter dispatch.Goroutine // zero before it has begun
	ended    chan struct{}      // closed when the reporter ends; nil while there is none
}

// report has err reported.
func (d *Durable) report(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reportLocked(err)
}

// reportLocked is report with Durable.mu. What it reports begins, or changes: Stalled says
// how things are, so nothing is reported twice.
func (d *Durable) reportLocked(err error) {
	d.afterReportsLocked(func() { d.cfg.Report(err) })
}

// afterReportsLocked has the reporter call do after what is pending. It starts a reporter
// where there is none.
func (d *Durable) afterReportsLocked(do func()) {
	d.reports.pending = append(d.reports.pending, do)
	if d.reports.ended == nil {
		d.reports.ended = make(chan struct{})
		go d.reportAll()
	}
}

// reportAll is the reporter: it does what is pending, and ends.
func (d *Durable) reportAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reports.reporter = dispatch.Here()
	for len(d.reports.pending) > 0 {
		next := d.reports.pending[0]
		d.reports.pending = d.reports.pending[1:]
		d.mu.Unlock()
		next()
		d.mu.Lock()
	}
	close(d.reports.ended)
	d.reports = reports{}
}

// awaitReported waits until all is reported or ctx ends. It does not wait for the reporter
// if that is the caller whom ctx names.
func (d *Durable) awaitReported(ctx context.Context) {
	d.mu.Lock()
	ended, reporter := d.reports.ended, d.reports.reporter
	d.mu.Unlock()
	if ended == nil || reporter.IsCaller(ctx) {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// Stalled is why no messages can be had at present, or nil. Health reads it.
func (d *Durable) Stalled() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pullers {
		if p.stalled != nil {
			return p.stalled
		}
	}
	if d.deniedAck.err != nil && time.Since(d.deniedAck.at) < d.ackWait+deniedAckMemory {
		return d.deniedAck.err
	}
	if err := d.keptLocked(); err != nil {
		return err
	}
	return d.order.stalledLocked()
}
