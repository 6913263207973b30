package outlet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/outlet"
	"github.com/omnibus-go/bus/internal/testserver"
)

func TestStoreReadsTheAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		want         outlet.Ack
		refusal      *jserr.Refusal
		text         string // of another error
	}{
		{name: "stored", answer: ackText, want: outlet.Ack{Stream: "S", Sequence: 7, Domain: "d"}},
		{name: "duplicate", answer: `{"stream":"S","seq":3,"duplicate":true}`, want: outlet.Ack{Stream: "S", Sequence: 3, Duplicate: true}},
		{name: "refused", answer: `{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}`,
			refusal: &jserr.Refusal{Code: 503, Number: 10077, Description: "maximum messages exceeded"}},
		{name: "no JSON", answer: `+OK`, text: "not an acknowledgement"},
		{name: "other JSON", answer: `{"hello":"world"}`, text: "names none"},
		{name: "a number", answer: `7`, text: "not an acknowledgement"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := testserver.New(t)
			stream(t, s, func(int, *nats.Msg) string { return c.answer })
			o := newSender(t, s)
			ack, err := o.Store(t.Context(), message(""))
			if ack != c.want {
				t.Errorf("got %+v, want %+v", ack, c.want)
			}
			var refusal *jserr.Refusal
			switch {
			case c.refusal != nil:
				if !errors.As(err, &refusal) || *refusal != *c.refusal {
					t.Errorf("got error %v", err)
				}
			case c.text != "":
				if err == nil || !strings.Contains(err.Error(), c.text) {
					t.Errorf("got error %v", err)
				}
			case err != nil:
				t.Errorf("got error %v", err)
			}
			stored, failed := o.counters.Published.Load(), o.counters.PublishFailed.Load()
			if good := c.want.Stream != ""; good && stored != 1 || !good && failed != 1 || stored+failed != 1 {
				t.Errorf("counted %d published and %d failed", stored, failed)
			}
		})
	}
}
