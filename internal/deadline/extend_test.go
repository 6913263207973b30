package deadline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// An extended context outlasts its parent by the grace, and keeps its values.
func TestExtend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, 1), time.Minute)
		defer cancel()
		extended, done := Extend(ctx, time.Second)
		<-extended.Done()
		if took := time.Since(began); took != time.Minute+time.Second || extended.Value(key{}) != 1 {
			t.Errorf("it ended after %v, with the value %v", took, extended.Value(key{}))
		}
		done()
		extended, done = Extend(t.Context(), time.Second)
		done()
		if extended.Err() == nil {
			t.Error("it goes on after done")
		}
	})
}
