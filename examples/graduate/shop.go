package main

import (
	"context"
	"fmt"
	"io"
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

// shop stores and handles orders all the time.
type shop struct {
	orders  *bus.Stream
	billing *bus.Consumer
	cancel  context.CancelFunc // ends the publisher
	running sync.WaitGroup

	mu      sync.Mutex
	began   time.Time
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
	s := &shop{orders: orders, began: time.Now(), handled: make(map[int]int), latest: make(map[int]int)}
	if s.billing, err = bus.Consume(ctx, orders, "billing", orderPlaced, s.handle, bus.KeyBySubject(), bus.Concurrency(customers)); err != nil {
		return nil, err
	}
	publishing, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	s.running.Go(func() { s.publish(publishing) })
	return s, nil
}

// publish stores one order after the other until ctx ends.
func (s *shop) publish(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
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

// String says how many orders there are, and how fast they come.
func (s *shop) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	rate := float64(s.stored) / time.Since(s.began).Seconds()
	return fmt.Sprintf("%d orders stored, %d handled, %.0f a second", s.stored, len(s.handled), rate)
}

// storedNow is how many orders are stored.
func (s *shop) storedNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored
}

// resetWait returns how long an order took to be stored, at most, since the last call.
func (s *shop) resetWait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.longest
	s.longest = 0
	return longest.Round(time.Millisecond)
}

// await waits until n orders are stored.
func (s *shop) await(ctx context.Context, n int) error {
	return s.until(ctx, func() bool { return s.stored >= n })
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
			return fmt.Errorf("%v: %w", s, ctx.Err())
		}
	}
}

// stop ends the publisher.
func (s *shop) stop() {
	s.cancel()
	s.running.Wait()
}

// finish stops to publish, waits until all orders are handled, and prints the result. It fails
// if an order was lost or handled twice, or handled too late.
func (s *shop) finish(ctx context.Context, w io.Writer) error {
	s.stop()
	if err := s.until(ctx, func() bool { return len(s.handled) >= s.stored }); err != nil {
		return err
	}
	if err := s.billing.Drain(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lost, twice := 0, 0
	for n := 1; n <= s.stored; n++ {
		if s.handled[n] == 0 {
			lost++
		}
		if s.handled[n] > 1 {
			twice++
		}
	}
	fmt.Fprintf(w, "published %d · handled %d · lost %d · twice %d · out of order %d\n", s.stored, len(s.handled), lost, twice, s.behind)
	if lost+twice+s.behind > 0 {
		return fmt.Errorf("%d orders lost, %d handled twice, %d out of order", lost, twice, s.behind)
	}
	return nil
}
