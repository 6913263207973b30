package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/omnibus-go/bus"
)

// Order is what the shop stores.
type Order struct {
	Number int `json:"number"`
}

// orderPlaced is the subject of an order; the wildcard is the customer.
const orderPlaced bus.Subject[Order] = "shop.orders.*.placed.v1"

// customers is how many there are. The orders of each are handled in order.
const customers = 5

// perSecond is how many orders are stored in a second, at most.
const perSecond = 5000

// ackWait is when the cluster sends again what was on the way from a node that was killed.
const ackWait = 5 * time.Second

// shop stores and handles orders all the time.
type shop struct {
	orders  *bus.Stream
	billing *bus.Consumer
	cancel  context.CancelFunc // ends the publisher
	running sync.WaitGroup

	mu      sync.Mutex
	stored  int           // orders 1 to stored were acknowledged
	handled map[int]int   // how often each order was handled
	latest  map[int]int   // the order of each customer that was handled last
	behind  int           // orders that were handled after a later one of the same customer
	longest time.Duration // that an order took to be stored, since resetWait
	failed  error         // of the publisher
}

// openShop declares the stream, begins to consume, and begins to publish.
func openShop(ctx context.Context, b *bus.Bus) (*shop, error) {
	orders, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: bus.Subjects(orderPlaced)})
	if err != nil {
		return nil, err
	}
	s := &shop{orders: orders, handled: make(map[int]int), latest: make(map[int]int)}
	options := []bus.ConsumeOption{bus.KeyBySubject(), bus.Concurrency(customers), bus.AckWait(ackWait)}
	if s.billing, err = bus.Consume(ctx, orders, "billing", orderPlaced, s.handle, options...); err != nil {
		return nil, err
	}
	publishing, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	s.running.Go(func() { s.publish(publishing) })
	return s, nil
}

// publish stores one order after the other until ctx ends.
func (s *shop) publish(ctx context.Context) {
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		subject := orderPlaced.At(strconv.Itoa(n % customers))
		_, err := bus.PublishTo(context.WithoutCancel(ctx), s.orders, subject, Order{n}, bus.MsgID(strconv.Itoa(n)))
		s.mu.Lock()
		if err != nil {
			s.failed = err
			s.mu.Unlock()
			return
		}
		s.stored, s.longest = n, max(s.longest, time.Since(began))
		s.mu.Unlock()
	}
}

// handle notes an order.
func (s *shop) handle(_ context.Context, m *bus.Msg[Order]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	customer, n := m.Data.Number%customers, m.Data.Number
	if s.handled[n]++; n < s.latest[customer] {
		s.behind++
	}
	s.latest[customer] = n
	return nil
}

// counts returns how many orders are stored, and how many of these were handled.
func (s *shop) counts() (stored, handled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	handled = len(s.handled)
	if s.handled[s.stored+1] > 0 { // its acknowledgement is on the way to the publisher
		handled--
	}
	return s.stored, handled
}

// resetWait returns how long an order took to be stored, at most, since the last call.
func (s *shop) resetWait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.longest
	s.longest = 0
	return longest.Round(time.Millisecond)
}

// await waits until n more orders are stored, and those that are stored by then are handled.
func (s *shop) await(ctx context.Context, n int) error {
	stored, _ := s.counts()
	n += stored
	return s.until(ctx, func() bool { return s.stored >= n && len(s.handled) >= n })
}

// until waits until done, which is called with mu held.
func (s *shop) until(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		is, failed := done(), s.failed
		s.mu.Unlock()
		if is || failed != nil {
			return failed
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			stored, handled := s.counts()
			return fmt.Errorf("%d orders are stored, %d handled: %w", stored, handled, ctx.Err())
		}
	}
}

// stop ends the publisher.
func (s *shop) stop() {
	s.cancel()
	s.running.Wait()
}

// result is what became of the orders.
type result struct{ published, handled, lost, doubled, late int }

// finish stops to publish, waits until all orders are handled, and counts them.
func (s *shop) finish(ctx context.Context) (r result, err error) {
	s.stop()
	if err := s.until(ctx, func() bool { return len(s.handled) >= s.stored }); err != nil {
		return r, err
	}
	if err := s.billing.Drain(ctx); err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r = result{published: s.stored, handled: len(s.handled), late: s.behind}
	for n := 1; n <= s.stored; n++ {
		switch times := s.handled[n]; {
		case times == 0:
			r.lost++
		case times > 1:
			r.doubled++
		}
	}
	return r, nil
}

// check fails unless each order was handled once, and in the order of its customer.
func (r result) check() error {
	if r.lost+r.doubled+r.late > 0 {
		return fmt.Errorf("%d orders lost, %d handled twice, %d out of order", r.lost, r.doubled, r.late)
	}
	return nil
}
