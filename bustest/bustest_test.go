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
