package intake

import (
	"context"

	"github.com/omnibus-go/bus/internal/dispatch"
)

// reports is what a Durable has to report and who tells it: a goroutine of its own,
// since whoever is reported may take long, or end the Durable. Guarded by the
// Durable's mu.
type reports struct {
	unreported []error
	reporter   dispatch.Goroutine // zero before it has begun
	reported   chan struct{}      // closed when the reporter ends; nil while there is none
}

// report has err reported.
func (d *Durable) report(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reportLocked(err)
}

func (d *Durable) reportLocked(err error) {
	d.reports.unreported = append(d.reports.unreported, err)
	if d.reports.reported == nil {
		d.reports.reported = make(chan struct{})
		go d.reportAll()
	}
}

// reportAll tells what there is, and ends.
func (d *Durable) reportAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reports.reporter = dispatch.Here()
	for len(d.reports.unreported) > 0 {
		err := d.reports.unreported[0]
		d.reports.unreported = d.reports.unreported[1:]
		d.mu.Unlock()
		d.cfg.Report(err)
		d.mu.Lock()
	}
	close(d.reports.reported)
	d.reports = reports{}
}

// awaitReported waits until all is reported or ctx ends. It does not wait for the reporter
// if that is the caller whom ctx notes.
func (d *Durable) awaitReported(ctx context.Context) {
	d.mu.Lock()
	reported, reporter := d.reports.reported, d.reports.reporter
	d.mu.Unlock()
	if reported == nil || reporter.IsCaller(ctx) {
		return
	}
	select {
	case <-reported:
	case <-ctx.Done():
	}
}

// Stalled is why no messages can be had at present, or nil.
func (d *Durable) Stalled() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.pullers {
		if s.stalled != nil {
			return s.stalled
		}
		if s.barrier.reported != nil {
			return s.barrier.reported
		}
	}
	return d.stuckLocked()
}
