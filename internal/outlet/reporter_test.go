package outlet_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus/internal/dispatch"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestAsyncReportsWhatItCannotSend(t *testing.T) {
	t.Parallel()
	s := testserver.New(t)
	o := newSender(t, s)
	var f failures
	a := outlet.NewAsync(o.Outlet, f.config(10, true))
	for i := range 5 {
		if i == 3 {
			a.Drain(t.Context())
			break
		}
		if err := a.Add(t.Context(), &outlet.Message{Out: wire.Out{Subject: "", Data: []byte(strconv.Itoa(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(f.list, []string{"0", "1", "2"}) {
		t.Errorf("reported %v", f.list)
	}
	if n := a.Drain(t.Context()); n != 3 {
		t.Errorf("Drain counts %d messages as unsent, want 3", n)
	}
}

// A function that gets a report may drain the Async, or take long.
func TestAsyncReportMayDrain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newSender(t, testserver.New(t))
		o.link.Close()
		var a *outlet.Async
		unsent := make(chan int, 1)
		ready := make(chan struct{})
		a = outlet.NewAsync(o.Outlet, outlet.AsyncConfig{Size: 10, Wait: true, Lost: func(int) {}, Failed: func(m *outlet.Message, _ error) {
			if string(m.Data) != "0" {
				return
			}
			<-ready
			ctx := dispatch.FromCaller(t.Context())
			if !a.IsReporting(ctx) || a.IsReporting(t.Context()) {
				t.Error("it does not know who calls")
			}
			unsent <- a.Drain(ctx)
		}})
		began := time.Now()
		addAll(t, a, 0, 3)
		close(ready)
		if n := <-unsent; n != 3 || time.Since(began) != 0 {
			t.Errorf("%d are unsent, after %v", n, time.Since(began))
		}
		if n := a.Drain(t.Context()); n != 3 { // waits for the other reports
			t.Errorf("%d are unsent", n)
		}
	})
}

func TestAsyncSendsDuringAReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t)
		got := receive(t, s.Link(t))
		const most = 1000 // are reported one by one
		release := make(chan struct{})
		var failed, counted atomic.Int64
		a := outlet.NewAsync(newSender(t, s).Outlet, outlet.AsyncConfig{Size: 10, Wait: true,
			Failed: func(*outlet.Message, error) {
				<-release
				failed.Add(1)
			},
			Lost: func(n int) { counted.Add(int64(n)) },
		})
		bad := &outlet.Message{} // without a subject
		for i := range 3 * most {
			if err := errors.Join(a.Add(t.Context(), bad), a.Add(t.Context(), numbered(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(got()); n != 3*most {
			t.Errorf("%d messages came, want %d", n, 3*most)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if n := a.Drain(ctx); n != 3*most || time.Since(began) != time.Second {
			t.Errorf("%d are unsent, after %v", n, time.Since(began))
		}
		close(release)
		a.Drain(t.Context())
		if f, c := failed.Load(), counted.Load(); f != most+1 || f+c != 3*most { // one report is running
			t.Errorf("reported %d messages, and %d more as a number, want %d", f, c, most+1)
		}
	})
}
