package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/omnibus-go/bus/switchover"
)

// meter prints how fast orders are stored: each half second, and when the switch gets on.
type meter struct {
	w       io.Writer
	shop    *shop
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	state  string   // where the bus is, or how far the switch is
	recent []sample // of the last half second
}

// sample is how many orders were stored at a time.
type sample struct {
	at     time.Time
	stored int
}

// A line comes with each perLine-th sample.
const (
	sampleEvery = 100 * time.Millisecond
	perLine     = 5
)

// startMeter begins to print.
func startMeter(ctx context.Context, w io.Writer, shop *shop) *meter {
	m := &meter{w: w, shop: shop, state: "embedded", recent: []sample{{at: time.Now()}}}
	ctx, m.cancel = context.WithCancel(ctx)
	m.running.Go(func() { m.run(ctx) })
	return m
}

func (m *meter) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
			m.sample(n%perLine == 0)
		case <-ctx.Done():
			return
		}
	}
}

// sample looks at the shop, and prints a line if asked to.
func (m *meter) sample(line bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if line {
		m.printLocked()
	}
	stored, _ := m.shop.counts()
	m.recent = append(m.recent, sample{time.Now(), stored})
	m.recent = m.recent[max(0, len(m.recent)-perLine):]
}

// enter prints a line if the state is another one.
func (m *meter) enter(state string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != state {
		m.state = state
		m.printLocked()
	}
}

// show is the function of switchover.OnProgress.
func (m *meter) show(p switchover.Progress) {
	m.enter(fmt.Sprintf("%-9s %s %4.1f MiB/s", p.Phase, bar(p), float64(p.Rate)/(1<<20)))
}

func (m *meter) printLocked() {
	stored, handled := m.shop.counts()
	rate := float64(stored-m.recent[0].stored) / time.Since(m.recent[0].at).Seconds()
	fmt.Fprintf(m.w, "%-42s %6d stored %6d handled %6.0f a second\n", m.state, stored, handled, rate)
}

// stop ends the lines. It may be called twice.
func (m *meter) stop() {
	m.cancel()
	m.running.Wait()
}

// bar shows how much of the messages was copied.
func bar(p switchover.Progress) string {
	const width = 20
	done := 0
	if p.TotalMessages > 0 {
		done = int(width * p.Messages / p.TotalMessages)
	}
	return "[" + strings.Repeat("#", done) + strings.Repeat(".", width-done) + "]"
}
