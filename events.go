package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/omnibus-go/bus/event"
)

// report logs e and tells the user's function.
func (b *Bus) report(e event.Event) {
	e.Time = time.Now()
	b.core.Counters.Events.Add(1)
	b.logEvent(e)
	if b.cfg.onEvent == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			b.cfg.logger.Error("the function of WithEvents panicked", "panic", fmt.Sprint(v), "event", string(e.Kind))
		}
	}()
	b.cfg.onEvent(e)
}

func (b *Bus) logEvent(e event.Event) {
	var args []any
	for _, a := range []struct {
		key, value string
	}{{"subject", e.Subject}, {"stream", e.Stream}, {"durable", e.Durable}} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if e.Sequence != 0 {
		args = append(args, "sequence", e.Sequence)
	}
	if e.Attempt != 0 {
		args = append(args, "attempt", e.Attempt)
	}
	if e.Err != nil {
		args = append(args, "error", e.Err)
	}
	if p, ok := errors.AsType[*PanicError](e.Err); ok {
		args = append(args, "stack", string(p.Stack))
	}
	if e.Kind == event.Reconnected {
		b.cfg.logger.Info(string(e.Kind), args...)
		return
	}
	b.cfg.logger.Warn(string(e.Kind), args...)
}
