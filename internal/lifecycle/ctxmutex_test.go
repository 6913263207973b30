package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/omnibus-go/bus/internal/lifecycle"
)

func TestMutexExcludes(t *testing.T) {
	t.Parallel()
	var m lifecycle.Mutex
	var wg sync.WaitGroup
	n := 0 // the race detector looks at it
	for range 10 {
		wg.Go(func() {
			for range 50 {
				unlock, err := m.Lock(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				n++
				unlock()
			}
		})
	}
	wg.Wait()
	if n != 500 {
		t.Errorf("counted %d of 500", n)
	}
}

func TestMutexHonoursItsContext(t *testing.T) {
	t.Parallel()
	var m lifecycle.Mutex
	unlock, err := m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Lock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	unlock()
	unlock, err = m.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
