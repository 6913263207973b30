package middleware_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/middleware"
)

// Several together, in the order that lets each see what it should.
func Example() {
	logging, err1 := middleware.Logging(hclog.NewNullLogger())
	deduplicate, err2 := middleware.Deduplicate(10*time.Minute, 10_000)
	throttle, err3 := middleware.Throttle(100, 10)
	breaker, err4 := middleware.CircuitBreaker(middleware.BreakerSettings{OpenFor: 30 * time.Second})
	timeout, err5 := middleware.Timeout(5 * time.Second)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithMiddleware(logging)) // for all handlers
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	handled := make(chan string)
	_, err = bus.Subscribe(b, "mail.send", func(ctx context.Context, m *bus.Msg[string]) error {
		_, limited := ctx.Deadline()
		handled <- fmt.Sprint(m.Data, ", with a deadline: ", limited)
		return nil
	}, bus.Use(deduplicate, throttle, breaker, timeout)) // for this one
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := bus.Publish(context.Background(), b, "mail.send", "welcome"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-handled)
	// Output: welcome, with a deadline: true
}

// A bad argument is an error that says what is wrong with it.
func Example_badArgument() {
	_, err := middleware.Throttle(0, 10)
	fmt.Println(err)
	// Output: bus: middleware.Throttle: perSecond must be a number more than zero, not 0
}

func ExampleTimeout() {
	timeout, err := middleware.Timeout(10 * time.Millisecond)
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithMiddleware(timeout))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	ended := make(chan error)
	_, err = bus.Subscribe(b, "report.make", func(ctx context.Context, m *bus.Msg[string]) error {
		<-ctx.Done() // a handler passes ctx to what takes long
		ended <- ctx.Err()
		return ctx.Err()
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := bus.Publish(context.Background(), b, "report.make", "2026"); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-ended)
	// Output: context deadline exceeded
}

func ExampleLogging() {
	var log bytes.Buffer
	logging, err := middleware.Logging(hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: &log, DisableTime: true}))
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithMiddleware(logging))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = bus.Subscribe(b, "orders.*", func(ctx context.Context, m *bus.Msg[string]) error {
		if m.Data == "" {
			return errors.New("the order is empty")
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, order := range []string{"a book", ""} {
		if err := bus.Publish(context.Background(), b, "orders.placed", order); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := b.Close(); err != nil { // waits for the handlers
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(log.String()) {
		withoutDuration, _, _ := strings.Cut(line, " duration=")
		fmt.Println(withoutDuration)
	}
	// Output:
	// [DEBUG] handled: subject=orders.placed
	// [WARN]  handler failed: subject=orders.placed error="the order is empty"
}

func ExampleThrottle() {
	throttle, err := middleware.Throttle(50, 1) // one every 20 ms
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	handled := make(chan time.Time, 3)
	_, err = bus.Subscribe(b, "sms.send", func(ctx context.Context, m *bus.Msg[string]) error {
		handled <- time.Now()
		return nil
	}, bus.Use(throttle))
	if err != nil {
		fmt.Println(err)
		return
	}
	began := time.Now()
	for range 3 {
		if err := bus.Publish(context.Background(), b, "sms.send", "hello"); err != nil {
			fmt.Println(err)
			return
		}
	}
	_, _, third := <-handled, <-handled, <-handled
	fmt.Println("the third waited for its turn:", third.Sub(began) >= 40*time.Millisecond)
	// Output: the third waited for its turn: true
}

func ExampleCircuitBreaker() {
	breaker, err := middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 2, OpenFor: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	_, err = bus.Respond(b, "stock.get", func(ctx context.Context, m *bus.Msg[string]) (int, error) {
		fmt.Println("asking the database")
		return 0, errors.New("the database is down")
	}, bus.Use(breaker))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		_, err := bus.Request[int](context.Background(), b, "stock.get", "a book")
		fmt.Println(err)
	}
	// Output:
	// asking the database
	// bus: request to "stock.get": internal error (500)
	// asking the database
	// bus: request to "stock.get": internal error (500)
	// bus: request to "stock.get": temporarily unavailable, try again later (503)
}

func ExampleOpenError() {
	breaker, err := middleware.CircuitBreaker(middleware.BreakerSettings{Failures: 1, OpenFor: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	refused := make(chan time.Duration, 1)
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()), bus.WithEvents(func(e event.Event) {
		if open, ok := errors.AsType[*middleware.OpenError](e.Err); ok {
			refused <- open.RetryIn
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()

	_, err = bus.Subscribe(b, "stock.changed", func(ctx context.Context, m *bus.Msg[int]) error {
		return errors.New("the database is down")
	}, bus.Use(breaker))
	if err != nil {
		fmt.Println(err)
		return
	}
	for n := range 2 {
		if err := bus.Publish(context.Background(), b, "stock.changed", n); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("open for another", (<-refused).Round(time.Minute))
	// Output: open for another 1m0s
}

func ExampleDeduplicate() {
	deduplicate, err := middleware.Deduplicate(time.Minute, 1000)
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := bus.New(bus.WithLogger(hclog.NewNullLogger()))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = bus.Subscribe(b, "orders.placed", func(ctx context.Context, m *bus.Msg[string]) error {
		fmt.Println(m.ID, m.Data)
		return nil
	}, bus.Use(deduplicate))
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 { // the publisher was not sure about the first
		if err := bus.Publish(context.Background(), b, "orders.placed", "a book", bus.MsgID("order-17")); err != nil {
			fmt.Println(err)
			return
		}
	}
	if err := b.Close(); err != nil { // waits for the handlers
		fmt.Println(err)
		return
	}
	// Output: order-17 a book
}
