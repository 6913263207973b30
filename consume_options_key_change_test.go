package bus_test

import (
	"context"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// Without a port nobody keeps the order of two consumers together.
func TestSecondConsumerWithKeys(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	first := consume(t, st, "d", "s.*", ignore[int], bus.KeyBySubject())
	second := func() (*bus.Consumer, error) {
		return bus.Consume(t.Context(), st, "d", bus.Subject[int]("s.*"), ignore[int], bus.KeyBySubject())
	}
	_, err := second()
	if e := asError[*bus.OptionError](t, err, `durable "d"`, "WithListen", "Concurrency"); e.Option != "KeyBySubject" {
		t.Errorf("got the option %q", e.Option)
	}
	consume(t, st, "other", "s.*", ignore[int], bus.KeyBySubject())
	must(t, first.Drain(t.Context()))
	c, err := second()
	must(t, err)
	c.Stop()
	must(t, stopped(second()))
}

// One that is refused has changed nothing, also while the first one asks for nothing.
func TestSecondConsumerWithKeysChangesNothing(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		free := make(chan struct{})
		consume(t, st, "d", "s.*", func(context.Context, *bus.Msg[int]) error {
			<-free
			return nil
		}, bus.KeyBySubject())
		storeKeys(t, st, 1, 1000) // as many as there may be
		pass(time.Minute)
		before := consumerInfo(t, b, "S", "d")
		if before.NumWaiting > 0 {
			t.Fatal("the first one asks for messages")
		}
		_, err := bus.Consume(t.Context(), st, "d", bus.Subject[int]("s.*"), ignore[int], bus.KeyByToken(2), bus.AckWait(time.Minute))
		asError[*bus.OptionError](t, err, "WithListen")
		if after := consumerInfo(t, b, "S", "d"); !reflect.DeepEqual(after.Config, before.Config) {
			t.Errorf("the durable is\n%+v, was\n%+v", after.Config, before.Config)
		}
		close(free)
	})
}

// Members of a durable that name keys otherwise would break the order that the rest
// keeps, so they are refused while the rest is there.
func TestMembersWithAnotherKey(t *testing.T) {
	t.Parallel()
	byValue := bus.KeyBy(func(m *bus.Msg[int]) string { return string(rune('a' + m.Data%3)) })
	for name, tc := range map[string]struct {
		have, want []bus.ConsumeOption
		text       string
	}{
		"a key more":     {nil, []bus.ConsumeOption{bus.KeyBySubject()}, "key: have none, want subject"},
		"a key less":     {[]bus.ConsumeOption{bus.KeyByToken(2)}, nil, "key: have token 2, want none"},
		"another token":  {[]bus.ConsumeOption{bus.KeyByToken(1)}, []bus.ConsumeOption{bus.KeyByToken(2)}, "key: have token 1, want token 2"},
		"another header": {[]bus.ConsumeOption{bus.KeyByHeader("A")}, []bus.ConsumeOption{bus.KeyByHeader("B")}, "key: have header A, want header B"},
		"a function":     {[]bus.ConsumeOption{bus.KeyBySubject()}, []bus.ConsumeOption{byValue}, "key: have subject, want function of int"},
	} {
		for where, opts := range map[string][]bus.Option{"without a port": nil, "with a port": {anyPort()}} {
			t.Run(name+" "+where, func(t *testing.T) {
				t.Parallel()
				b := bustest.New(t, opts...)
				st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
				first := consume(t, st, "d", "s.*", ignore[int], tc.have...)
				eventually(t, "the first one asks for messages", func() bool { return consumerInfo(t, b, "S", "d").NumWaiting > 0 })
				again := func() (*bus.Consumer, error) {
					return bus.Consume(t.Context(), st, "d", bus.Subject[int]("s.*"), ignore[int], tc.want...)
				}
				_, err := again()
				if tc.have != nil && tc.want != nil && opts == nil { // nobody would keep their order together, however they name keys
					asError[*bus.OptionError](t, err, "WithListen")
				} else {
					asError[*bus.ConsumerConflictError](t, err, tc.text, "all processes must give the same key: end that one first")
				}
				must(t, first.Drain(t.Context()))
				c, err := again()
				must(t, err)
				must(t, c.Drain(t.Context()))
				c = consume(t, st, "d", "s.*", ignore[int], tc.have...) // and back
				must(t, c.Drain(t.Context()))
			})
		}
	}
}

// What is written about the key does not hinder what else changes.
func TestKeyAndAckWaitChangeTogether(t *testing.T) {
	t.Parallel()
	bustest.Run(t, func(t *testing.T, b *bus.Bus) {
		st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
		must(t, consume(t, st, "d", "s.*", ignore[int]).Drain(t.Context()))
		var got ledger
		c := consume(t, st, "d", "s.*", got.handle, bus.KeyBySubject(), bus.AckWait(time.Minute))
		if have := consumerInfo(t, b, "S", "d").Config; have.AckWait != time.Minute {
			t.Errorf("AckWait is %v", have.AckWait)
		}
		storeRange(t, st, "s.a", 0, 10)
		synctest.Wait()
		got.mustBeOnce(t, 10)
		must(t, c.Drain(t.Context()))
	})
}
