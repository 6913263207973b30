package discovery

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"
)

// Endpoint is one responder.
type Endpoint struct {
	Subject string // or a pattern
	Group   string // its queue group, or empty
	Stats   func() Stats
}

// Stats are the statistics of a responder. Anybody with access to the server can read them.
type Stats struct {
	Requests, Errors int
	Busy             time.Duration // in the handler, all calls together
	LastError        string        // as requesters see it; empty for none
}

func (e *Endpoint) info() micro.EndpointInfo {
	return micro.EndpointInfo{Name: name(e.Subject), Subject: e.Subject, QueueGroup: e.Group, Metadata: map[string]string{}}
}

func (e *Endpoint) stats() *micro.EndpointStats {
	s := e.Stats()
	st := &micro.EndpointStats{Name: name(e.Subject), Subject: e.Subject, QueueGroup: e.Group,
		NumRequests: s.Requests, NumErrors: s.Errors, ProcessingTime: s.Busy, LastError: s.LastError}
	if s.Requests > 0 {
		st.AverageProcessingTime = s.Busy / time.Duration(s.Requests)
	}
	return st
}

// name makes a name of subj that the protocol allows: letters, digits, - and _.
func name(subj string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '*':
			return 'x'
		case r == '>':
			return 'X'
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, subj)
}
