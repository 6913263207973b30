package discovery

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/omnibus-go/bus/event"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/intake"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config is what a Service needs.
type Config struct {
	Core          *core.Core
	Name, Version string // of the service
	PendingMsgs   int    // limits of each subscription
	PendingBytes  int

	// CheckReply returns an error for a reply subject on which nobody may answer.
	CheckReply func(reply string) error

	// Register adds the service to the members that are drained when the bus stops, and
	// Unregister removes it. Both come from the bus.
	Register   func(*Service) error
	Unregister func(*Service)
}

// Service answers discovery requests. A bus has one. Safe for concurrent use.
type Service struct {
	config   Config
	identity micro.ServiceIdentity
	started  time.Time

	starting  sync.Mutex // guards the next two. It is not mu: closing a subscription waits for answers, which need mu
	listening bool
	subs      []*intake.Core // without those that the server refused

	mu        sync.Mutex
	endpoints []*Endpoint
}

// New returns a Service without endpoints.
func New(c Config) *Service {
	return &Service{config: c, started: time.Now(), identity: micro.ServiceIdentity{
		Name: c.Name, ID: nuid.Next(), Version: c.Version, Metadata: map[string]string{},
	}}
}

// Start subscribes to the discovery subjects, once. Each new responder calls it.
func (s *Service) Start() error {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.listening {
		return nil
	}
	if err := s.config.Register(s); err != nil {
		return err
	}
	for _, verb := range []micro.Verb{micro.PingVerb, micro.InfoVerb, micro.StatsVerb} {
		for _, address := range [][2]string{{"", ""}, {s.identity.Name, ""}, {s.identity.Name, s.identity.ID}} {
			if err := s.listen(verb, address[0], address[1]); err != nil {
				s.closeSubscriptions(context.Background())
				s.config.Unregister(s)
				return err
			}
		}
	}
	s.listening = true
	return nil
}

// listen subscribes to one subject. If the server refuses that, it is only reported: a
// program that may not be discovered may still respond. The caller holds starting.
func (s *Service) listen(verb micro.Verb, name, id string) error {
	subj, err := micro.ControlSubject(verb, name, id)
	if err != nil {
		return err
	}
	report := func(err error) { s.config.Core.Report(event.Event{Kind: event.ServerError, Subject: subj, Err: err}) }
	sub := intake.NewCore(s.config.Core.Link, intake.CoreConfig{
		Subject: subj, Concurrency: 1, PendingMsgs: s.config.PendingMsgs, PendingBytes: s.config.PendingBytes,
		Timeout: s.config.Core.Timeout,
		Run:     func(in wire.In, _ int64) { s.answer(verb, in) },
		Failed:  report,
	})
	err = sub.Open()
	if _, refused := errors.AsType[*link.RefusedError](err); refused {
		report(err)
		return nil
	}
	if err == nil {
		s.subs = append(s.subs, sub)
	}
	return err
}

// Add adds an endpoint.
func (s *Service) Add(e *Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = append(s.endpoints, e)
}

// Remove removes an endpoint, which may be absent.
func (s *Service) Remove(e *Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(other *Endpoint) bool { return other == e })
}

func (s *Service) list() []*Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.endpoints)
}

// answer answers one request. It runs on the goroutine of the subscription.
func (s *Service) answer(verb micro.Verb, in wire.In) {
	if in.Reply == "" {
		return
	}
	err := s.config.CheckReply(in.Reply)
	if err == nil {
		err = s.send(in.Reply, verb)
	}
	if err != nil {
		s.config.Core.Report(event.Event{Kind: event.HandlerFailed, Subject: in.Subject, Err: err})
	}
}

// send sends what answers verb to reply.
func (s *Service) send(reply string, verb micro.Verb) error {
	ms, err := s.responses(verb)
	if err != nil {
		return err
	}
	for _, m := range ms {
		m.Subject = reply
		if err := s.config.Core.Outlet.Reply(context.Background(), m); err != nil {
			return err
		}
	}
	return nil
}

// Drain ends the discovery subscriptions. The bus calls it when it stops.
func (s *Service) Drain(ctx context.Context) error {
	s.starting.Lock()
	defer s.starting.Unlock()
	s.closeSubscriptions(ctx)
	return nil
}

// closeSubscriptions ends the subscriptions. The caller holds starting.
func (s *Service) closeSubscriptions(ctx context.Context) {
	for _, sub := range s.subs {
		_ = sub.Close(ctx)
	}
	s.subs = nil
}
