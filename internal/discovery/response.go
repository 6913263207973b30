package discovery

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/micro"

	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/wire"
)

// rangeKey is the metadata key of a response that lists a part of the endpoints. Its value
// says which part: "2501-5000 of 5000".
const rangeKey = "endpoints"

// tooLong replaces the last error of an endpoint that is alone too large for a response.
const tooLong = "not shown: longer than the server's payload limit allows"

// responses returns what answers verb. A response that is larger than a message may be is
// divided: each part is a complete response of the same service with some of the endpoints.
func (s *Service) responses(verb micro.Verb) ([]*outlet.Message, error) {
	switch verb {
	case micro.PingVerb:
		m, err := message(micro.Ping{ServiceIdentity: s.identity, Type: micro.PingResponseType})
		return []*outlet.Message{m}, err
	case micro.InfoVerb:
		return divide(s, listed(s.list(), (*Endpoint).info), func(id micro.ServiceIdentity, es []micro.EndpointInfo) any {
			return micro.Info{ServiceIdentity: id, Type: micro.InfoResponseType, Endpoints: es}
		})
	default:
		return divide(s, listed(s.list(), (*Endpoint).stats), func(id micro.ServiceIdentity, es []*micro.EndpointStats) any {
			if len(es) == 1 && len(es[0].LastError) > s.config.Core.Link.MaxPayload()/16 {
				es[0].LastError = tooLong // JSON needs six bytes for some characters
			}
			return micro.Stats{ServiceIdentity: id, Type: micro.StatsResponseType, Started: s.started.UTC(), Endpoints: es}
		})
	}
}

// listed returns what of makes of each endpoint; not nil, because that would be null in JSON.
func listed[E any](endpoints []*Endpoint, of func(*Endpoint) E) []E {
	es := make([]E, 0, len(endpoints))
	for _, e := range endpoints {
		es = append(es, of(e))
	}
	return es
}

// divide returns the messages of a response that lists all endpoints. build makes the
// response with some of them.
func divide[E any](s *Service, all []E, build func(micro.ServiceIdentity, []E) any) ([]*outlet.Message, error) {
	return divideRange(s, all, 0, len(all), build)
}

// divideRange is divide for the endpoints from, counted from 0, up to and without end. It
// halves what is too large for one message.
func divideRange[E any](s *Service, all []E, from, end int, build func(micro.ServiceIdentity, []E) any) ([]*outlet.Message, error) {
	m, err := message(build(s.partIdentity(from, end, len(all)), all[from:end]))
	if err != nil {
		return nil, err
	}
	if end-from < 2 || s.config.Core.Outlet.CheckSize(m) == nil {
		return []*outlet.Message{m}, nil
	}
	middle := (from + end) / 2
	first, err := divideRange(s, all, from, middle, build)
	if err != nil {
		return nil, err
	}
	second, err := divideRange(s, all, middle, end, build)
	return append(first, second...), err
}

// partIdentity returns the identity in a response with the endpoints from up to and without
// end. Where these are not all, it says which they are.
func (s *Service) partIdentity(from, end, all int) micro.ServiceIdentity {
	id := s.identity
	if end-from < all {
		id.Metadata = maps.Clone(id.Metadata)
		id.Metadata[rangeKey] = fmt.Sprintf("%d-%d of %d", from+1, end, all)
	}
	return id
}

// message returns a message with response in JSON and without a subject.
func message(response any) (*outlet.Message, error) {
	data, err := json.Marshal(response)
	return &outlet.Message{Out: wire.Out{Data: data}}, err
}
