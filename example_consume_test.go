package bus_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus"
)

// orders returns a bus with a stream of three orders.
func orders(opts ...bus.Option) (*bus.Bus, *bus.Stream) {
	b, err := bus.New(opts...)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	st, err := b.Stream(ctx, bus.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	if err != nil {
		panic(err)
	}
	for _, id := range []string{"o-1", "o-2", "o-3"} {
		if _, err := bus.PublishTo(ctx, st, "orders.placed", Order{ID: id}); err != nil {
			panic(err)
		}
	}
	return b, st
}

// One durable for messages of several types keeps their order. What has no handler of
// its own goes to Default.
func ExampleStream_Consume() {
	b, st := orders()
	defer b.Close()
	ctx := context.Background()
	if _, err := bus.PublishTo(ctx, st, "orders.cancelled", Cancelled{Reason: "too late"}); err != nil {
		panic(err)
	}
	if _, err := bus.PublishTo(ctx, st, "orders.paid", "in cash"); err != nil {
		panic(err)
	}
	done := make(chan struct{})
	var mux bus.Mux
	bus.Handle(&mux, "orders.placed", func(_ context.Context, m *bus.Msg[Order]) error {
		fmt.Println("placed", m.Data.ID)
		return nil
	})
	bus.Handle(&mux, "orders.cancelled", func(_ context.Context, m *bus.Msg[Cancelled]) error {
		fmt.Println("cancelled because", m.Data.Reason)
		return nil
	})
	mux.Default(func(_ context.Context, m *bus.Msg[[]byte]) error {
		fmt.Println("something else on", m.Subject)
		close(done)
		return nil
	})
	if _, err := st.Consume(ctx, "billing", &mux); err != nil {
		panic(err)
	}
	<-done
	// Output:
	// placed o-1
	// placed o-2
	// placed o-3
	// cancelled because too late
	// something else on orders.paid
}

// A durable can begin anywhere in the stream.
func ExampleStartAtSequence() {
	b, st := orders()
	defer b.Close()
	done := make(chan string)
	_, err := bus.Consume(context.Background(), st, "billing", "orders.placed", func(_ context.Context, m *bus.Msg[Order]) error {
		done <- m.Data.ID
		return nil
	}, bus.StartAtSequence(3))
	if err != nil {
		panic(err)
	}
	fmt.Println(<-done)
	// Output:
	// o-3
}

// Rewind has everything from a place on handled once more, as after a mistake in the
// handler was mended.
func ExampleConsumer_Rewind() {
	b, st := orders()
	defer b.Close()
	ctx := context.Background()
	done := make(chan string, 10)
	con, err := bus.Consume(ctx, st, "billing", "orders.placed", func(_ context.Context, m *bus.Msg[Order]) error {
		done <- m.Data.ID
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(<-done, <-done, <-done)
	if err := con.Rewind(ctx, bus.StartAtSequence(2)); err != nil {
		panic(err)
	}
	fmt.Println(<-done, <-done)
	fmt.Println(con.Rewind(ctx, bus.StartAtSequence(17)))
	// Output:
	// o-1 o-2 o-3
	// o-2 o-3
	// bus: consumer "billing" of stream "ORDERS": cannot go back to sequence 17: the stream ends with 3
}

// While a durable is paused nobody gets its messages.
func ExampleConsumer_Pause() {
	b, st := orders()
	defer b.Close()
	ctx := context.Background()
	done := make(chan string, 10)
	con, err := bus.Consume(ctx, st, "billing", "orders.new", func(_ context.Context, m *bus.Msg[Order]) error {
		done <- m.Data.ID
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := con.Pause(ctx, time.Now().Add(time.Hour)); err != nil {
		panic(err)
	}
	if _, err := bus.PublishTo(ctx, st, "orders.new", Order{ID: "o-4"}); err != nil {
		panic(err)
	}
	fmt.Println("handled while it is paused:", len(done))
	if err := con.Resume(ctx); err != nil {
		panic(err)
	}
	fmt.Println(<-done)
	// Output:
	// handled while it is paused: 0
	// o-4
}

// RateLimit spares what the handler calls.
func ExampleRateLimit() {
	b, st := orders()
	defer b.Close()
	began, done := time.Now(), make(chan struct{}, 3)
	_, err := bus.Consume(context.Background(), st, "mail", "orders.placed", func(context.Context, *bus.Msg[Order]) error {
		done <- struct{}{}
		return nil
	}, bus.RateLimit(100, time.Second))
	if err != nil {
		panic(err)
	}
	for range 3 {
		<-done
	}
	fmt.Println("at least 20 ms:", time.Since(began) >= 20*time.Millisecond)
	// Output:
	// at least 20 ms: true
}

// A batch is handled at once, and each of its messages settled by itself.
func ExampleConsumeBatch() {
	b, st := orders()
	defer b.Close()
	insert := func(o Order) error {
		if o.ID == "o-2" {
			return bus.Permanent(errors.New("no such customer"))
		}
		return nil
	}
	done := make(chan string, 1)
	con, err := bus.ConsumeBatch(context.Background(), st, "store", "orders.placed", func(_ context.Context, ms []*bus.Msg[Order]) error {
		var failed bus.BatchError
		for i, m := range ms {
			failed.Add(i, insert(m.Data))
		}
		done <- fmt.Sprint(len(ms), " messages, ", len(failed.Failed), " failed")
		return failed.Err()
	}, bus.BatchSize(3), bus.BatchWait(time.Minute))
	if err != nil {
		panic(err)
	}
	fmt.Println(<-done)
	if err := con.Drain(context.Background()); err != nil {
		panic(err)
	}
	for dead := range st.DeadLetters(context.Background(), bus.DeadFilter{}) {
		fmt.Println("dead:", dead.Sequence, dead.Error)
	}
	// Output:
	// 3 messages, 1 failed
	// dead: 2 no such customer
}

// What the handler needs is down: its message waits, and loses no attempt by that.
func ExamplePostpone() {
	b, st := orders()
	defer b.Close()
	calls, done := 0, make(chan struct{})
	_, err := bus.Consume(context.Background(), st, "billing", "orders.placed", func(_ context.Context, m *bus.Msg[Order]) error {
		if calls++; calls == 1 {
			return bus.Postpone(10*time.Millisecond, errors.New("the bank is closed"))
		}
		fmt.Println(m.Data.ID, "at attempt", m.Attempt)
		if calls == 4 {
			close(done)
		}
		return nil
	}, bus.KeyBySubject(), bus.Retry(bus.RetryPolicy{MaxAttempts: 1}))
	if err != nil {
		panic(err)
	}
	<-done
	// Output:
	// o-1 at attempt 1
	// o-2 at attempt 1
	// o-3 at attempt 1
}
