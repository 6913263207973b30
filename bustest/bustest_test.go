package bustest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// A test that closes its bus has judged what Close returned.
func TestBusThatItsTestCloses(t *testing.T) {
	t.Parallel()
	b := bustest.New(t, bus.WithDrainTimeout(50*time.Millisecond))
	began, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	_, err := bus.Subscribe(b, "a", func(context.Context, *bus.Msg[int]) error {
		close(began)
		<-release
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Publish(t.Context(), b, "a", 1); err != nil {
		t.Fatal(err)
	}
	<-began
	if _, left := errors.AsType[*bus.DrainError](b.Close()); !left {
		t.Error("Close says nothing of the handler")
	}
}

func TestRunIsInVirtualTime(t *testing.T) {
	t.Parallel()
	for range 3 {
		bustest.Run(t, func(t *testing.T, b *bus.Bus) {
			began := time.Now()
			if began.Year() != 2000 {
				t.Fatalf("the clock says %v", began)
			}
			st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bus.PublishTo(t.Context(), st, "s.1", "x"); err != nil {
				t.Fatal(err)
			}
			attempts := 0
			_, err = bus.Consume(t.Context(), st, "c", "s.>", func(_ context.Context, m *bus.Msg[string]) error {
				if attempts++; attempts < 4 {
					return bus.RetryAfter(time.Hour, errors.New("not yet"))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Hour)
			synctest.Wait()
			if attempts != 4 {
				t.Errorf("%d attempts in four hours, want 4", attempts)
			}
			con, err := b.JetStream().Consumer(t.Context(), "S", "c")
			if err != nil {
				t.Fatal(err)
			}
			if info := con.CachedInfo(); info.NumAckPending != 0 || info.NumRedelivered != 0 {
				t.Errorf("the server redelivered: %+v", info)
			}
		})
	}
}
