package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// Detach has the server send nothing more, and waits until all that it has sent is here. It
// is for quiesced Durables whose connection is about to lead elsewhere: what the server sent
// would be lost on the way otherwise, and come again only after AckWait. Handlers that run go
// on and settle. Resume opens new inboxes. When ctx ends first Detach returns why; Resume
// must follow all the same. It may be called again; what is detached stays as it is.
//
// It takes all Durables of a process at once, since several may have messages of one consumer:
// the server counts those together.
func Detach(ctx context.Context, all ...*Durable) error {
	var pullers []*puller
	for _, d := range all {
		pullers = append(pullers, d.pullers...)
	}
	fresh := slices.DeleteFunc(slices.Clone(pullers), (*puller).isDetached)
	if err := each(fresh, func(p *puller) error { return p.explain(p.endInterest(ctx)) }); err != nil {
		return err
	}
	var consumers []sharers
	for _, p := range fresh {
		if !slices.ContainsFunc(consumers, func(s sharers) bool { return s[0].Info == p.Info }) {
			consumers = append(consumers, slices.DeleteFunc(slices.Clone(pullers), func(q *puller) bool { return q.Info != p.Info }))
		}
	}
	return each(consumers, func(s sharers) error { return s[0].explain(s.fetchAll(ctx)) })
}

// explain adds to an error the stream and the name of the consumer.
func (p *puller) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("consumer %s: %w", strings.TrimPrefix(p.Info, "$JS.API.CONSUMER.INFO."), err)
}

// maxAtOnce is how many inboxes or consumers Detach works on at the same time.
const maxAtOnce = 32

// each calls do for all, some at the same time, and returns the errors.
func each[T any](all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	room := make(chan struct{}, maxAtOnce)
	for i, x := range all {
		room <- struct{}{}
		wg.Go(func() {
			errs[i] = do(x)
			<-room
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// isDetached reports whether Detach has nothing to do for p.
func (p *puller) isDetached() bool {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	return p.detached && p.empty
}

const (
	// maxFetches is how often Detach fetches what the server could not deliver. Messages that
	// another process has count as undelivered, too, and are never fetched.
	maxFetches = 5
	// fetchExpiry ends a request for such messages.
	fetchExpiry = 50 * time.Millisecond
)

// sharers are the pullers of a process that take messages of one consumer of the server.
type sharers []*puller

// fetchAll waits until all that the server has sent to them is here. When their interest ended,
// the server may have been about to send: such a message it keeps for the next request, as one
// that was sent. So one of them asks for those that are sent and not here.
func (s sharers) fetchAll(ctx context.Context) error {
	for fetches := 0; ; fetches++ {
		undelivered, err := s.undelivered(ctx)
		if err != nil || undelivered == 0 || fetches == maxFetches {
			return err
		}
		p := s.live()
		if p == nil {
			return nil // they are draining, and return what they do not handle
		}
		if err := p.fetch(ctx, undelivered); err != nil {
			return err
		}
		if err := p.endInterest(ctx); err != nil {
			return err
		}
	}
}

// live returns one that still takes messages, or nil.
func (s sharers) live() *puller {
	for _, p := range s {
		p.d.mu.Lock()
		ends := p.d.ends
		p.d.mu.Unlock()
		if !ends {
			return p
		}
	}
	return nil
}

// held is how many messages of the consumer are here.
func (s sharers) held() (n int) {
	for _, p := range s {
		p.d.mu.Lock()
		n += p.held
		p.d.mu.Unlock()
	}
	return n
}

// endInterest closes the inbox for the server, and waits until all that has come is held.
func (p *puller) endInterest(ctx context.Context) error {
	d := p.d
	d.mu.Lock()
	p.detached, p.asked = true, 0 // what was asked for comes to this inbox, or never
	sub := p.sub
	d.mu.Unlock()
	err := d.link.EndInterest(ctx, sub, d.cfg.Timeout)
	if err == nil {
		err = emptied(ctx, sub, 0, nil)
	}
	d.mu.Lock()
	p.empty = err == nil
	d.mu.Unlock()
	return err
}

// undelivered returns how many messages the server counts as sent that are not here. It asks
// again for a moment, because settlements are processed a little later than they are sent.
func (s sharers) undelivered(ctx context.Context) (n int, err error) {
	for range 5 {
		reply, err := s[0].d.link.Request(ctx, &wire.Out{Subject: s[0].Info})
		if err != nil {
			return 0, err
		}
		var i consumerInfo
		if err := json.Unmarshal(reply.Data, &i); err != nil {
			return 0, fmt.Errorf("not the state of a consumer: %w", err)
		}
		if n = max(i.AckPending-s.held(), 0); n == 0 {
			return 0, nil
		}
		time.Sleep(time.Millisecond)
	}
	return n, nil
}

// fetch asks for n messages on a new inbox, and waits until they are here or the request has
// ended. Those that could not be delivered come first.
func (p *puller) fetch(ctx context.Context, n int) error {
	if err := p.attach(); err != nil {
		return err
	}
	d := p.d
	d.mu.Lock()
	p.asked = n
	d.mu.Unlock()
	if err := p.ask(n, 0, fetchExpiry); err != nil {
		return err
	}
	for {
		d.mu.Lock()
		waits := p.asked > 0 && !d.ends
		d.mu.Unlock()
		if !waits {
			return nil
		}
		select {
		case <-time.After(time.Millisecond): // the callback of the inbox has no signal for that
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// attach opens new inboxes for the pullers that Detach detached. Resume calls it.
func (d *Durable) attach() {
	for _, p := range d.pullers {
		if err := p.attach(); err != nil {
			d.report(err) // the connection is closed for good
		}
	}
}

// attach opens a new inbox for p, if it is detached, and closes the old one when all that was
// sent there is held.
func (p *puller) attach() error {
	d := p.d
	d.mu.Lock()
	detached := p.detached && !d.ends
	d.mu.Unlock()
	if !detached {
		return nil
	}
	sub, unhook, err := p.subscribe()
	if err != nil {
		return err
	}
	d.mu.Lock()
	if d.ends { // the drain closes the old one
		d.mu.Unlock()
		unhook()
		return sub.Unsubscribe()
	}
	old, empty := p.sub, p.empty
	p.sub, p.detached = sub, false
	d.unhook = append(d.unhook, unhook)
	d.mu.Unlock()
	if empty {
		return old.Unsubscribe()
	}
	go func() {
		ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
		defer cancel()
		if d.link.EndInterest(ctx, old, d.cfg.Timeout) == nil {
			_ = emptied(ctx, old, 0, nil)
		}
		_ = old.Unsubscribe() // it may be closed with the connection
	}()
	return nil
}
