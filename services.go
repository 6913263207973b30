package bus

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/lifecycle"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// services answers discovery for all responders of a bus, by the NATS micro
// protocol: one service with one endpoint per responder. It subscribes to its
// nine subjects when the first responder comes and keeps them until the bus ends.
// The protocol: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md
type services struct {
	bus      *Bus
	identity micro.ServiceIdentity
	started  time.Time

	starting  sync.Mutex // not mu: who closes a subscription waits for answers, which need mu
	listening bool
	subs      []*intake.Core // those that the server allows

	mu        sync.Mutex
	endpoints []*Subscription
}

func newServices(b *Bus) *services {
	return &services{bus: b, started: time.Now(), identity: micro.ServiceIdentity{
		Name: b.cfg.name, ID: nuid.Next(), Version: b.cfg.version, Metadata: map[string]string{},
	}}
}

// start subscribes to the discovery subjects, once.
func (s *services) start() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.listening {
		return nil
	}
	if err := s.bus.registry.Add(lifecycle.StageDiscovery, s); err != nil {
		return err
	}
	for _, verb := range []micro.Verb{micro.PingVerb, micro.InfoVerb, micro.StatsVerb} {
		for _, address := range [][2]string{{"", ""}, {s.identity.Name, ""}, {s.identity.Name, s.identity.ID}} {
			if err := s.listen(verb, address[0], address[1]); err != nil {
				s.closeSubs(context.Background())
				s.bus.registry.Remove(s)
				return err
			}
		}
	}
	s.listening = true
	return nil
}

func (s *services) listen(verb micro.Verb, name, id string) error {
	subj, err := micro.ControlSubject(verb, name, id)
	if err != nil {
		return err
	}
	core := intake.NewCore(s.bus.core.Link, intake.CoreConfig{
		Subject: subj, Concurrency: 1, PendingMsgs: defaultPendingMsgs, PendingBytes: defaultPendingBytes,
		Timeout: s.bus.core.Timeout,
		Run:     func(in wire.In, _ int64) { s.answer(verb, in) },
		Failed:  func(err error) { s.bus.report(event.Event{Kind: event.ServerError, Subject: subj, Err: err}) },
	})
	var refused *link.RefusedError
	switch err := core.Open(); {
	case errors.As(err, &refused): // who may not be discovered may respond all the same
		s.bus.report(event.Event{Kind: event.ServerError, Subject: subj, Err: err})
		return nil
	case err != nil:
		return err
	}
	s.subs = append(s.subs, core)
	return nil
}

// add lists a responder as an endpoint.
func (s *services) add(r *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = append(s.endpoints, r)
}

// remove takes a responder off the list; it may be absent.
func (s *services) remove(r *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(e *Subscription) bool { return e == r })
}

func (s *services) list() []*Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.endpoints)
}

func (s *services) answer(verb micro.Verb, in wire.In) {
	if in.Reply == "" {
		return
	}
	var v any
	switch verb {
	case micro.PingVerb:
		v = micro.Ping{ServiceIdentity: s.identity, Type: micro.PingResponseType}
	case micro.InfoVerb:
		v = s.info()
	default:
		v = s.stats()
	}
	data, err := json.Marshal(v)
	if err == nil {
		out := outlet.Message{Out: wire.Out{Subject: in.Reply, Data: data}}
		err = s.bus.core.Outlet.Reply(context.Background(), &out)
	}
	if err != nil {
		s.bus.report(event.Event{Kind: event.HandlerFailed, Subject: in.Subject, Err: err})
	}
}

func (s *services) info() micro.Info {
	info := micro.Info{ServiceIdentity: s.identity, Type: micro.InfoResponseType, Endpoints: []micro.EndpointInfo{}}
	for _, e := range s.list() {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{
			Name: endpointName(e.Subject()), Subject: e.Subject(), QueueGroup: e.receiver.group, Metadata: map[string]string{},
		})
	}
	return info
}

func (s *services) stats() micro.Stats {
	st := micro.Stats{ServiceIdentity: s.identity, Type: micro.StatsResponseType, Started: s.started.UTC(), Endpoints: []*micro.EndpointStats{}}
	for _, e := range s.list() {
		st.Endpoints = append(st.Endpoints, e.endpointStats())
	}
	return st
}

// endpointName makes a name the protocol allows of a subject: letters, digits,
// - and _.
func endpointName(subj string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '*':
			return 'x'
		case r == '>':
			return 'X'
		case r < 0x80 && nameRule.MatchString(string(r)):
			return r
		}
		return '_'
	}, subj)
}

// endpointStats tells the service's statistics of one responder.
func (s *Subscription) endpointStats() *micro.EndpointStats {
	c := &s.receiver.counters
	st := &micro.EndpointStats{Name: endpointName(s.Subject()), Subject: s.Subject(), QueueGroup: s.receiver.group,
		NumRequests: int(s.core.Begun()), NumErrors: int(c.Errors.Load()),
		ProcessingTime: time.Duration(s.receiver.busy.Load())}
	if st.NumRequests > 0 {
		st.AverageProcessingTime = st.ProcessingTime / time.Duration(st.NumRequests)
	}
	if last := s.receiver.lastError.Load(); last != nil {
		st.LastError = *last
	}
	return st
}

// Drain ends the discovery subscriptions.
func (s *services) Drain(ctx context.Context) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.closeSubs(ctx)
	return nil
}

func (s *services) closeSubs(ctx context.Context) {
	for _, sub := range s.subs {
		_ = sub.Close(ctx)
	}
	s.subs = nil
}
