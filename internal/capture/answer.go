package capture

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// IsAnswerOf reports whether the stream answered a request on subj, and not a responder. The
// answer looks like an acknowledgement, with the stream's name and its JetStream domain. So
// the server is asked whether that stream stores subj. If it does not say, the answer is
// taken for the stream's: the value of an acknowledgement would be a wrong one without an
// error.
//
// A stream of this domain that stores subj is known from then on.
func (x *Index) IsAnswerOf(ctx context.Context, subj, stream, domain string) bool {
	_, err := x.refresh(ctx, stream)
	if s := x.Find(subj); s != nil {
		return !s.NoAck
	}
	if domain == "" {
		return !saysNo(err)
	}
	content, err := x.contentIn(ctx, domain, stream)
	if err != nil {
		return !saysNo(err)
	}
	return content.Stores(subj)
}

// contentIn asks the servers of a JetStream domain, which may be behind a leaf node, what
// their stream stores.
func (x *Index) contentIn(ctx context.Context, domain, stream string) (*Content, error) {
	js, err := jetstream.NewWithDomain(x.core.Link.Conn(), domain)
	if err != nil {
		return nil, err
	}
	ctx, cancel := x.core.WithTimeout(ctx)
	defer cancel()
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	return ContentOf(st.CachedInfo()), nil
}

// saysNo reports whether err, of a question about a stream that does not store the subject
// as far as is known, says that there is no such stream. nil says it too.
func saysNo(err error) bool {
	return err == nil || errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
}
