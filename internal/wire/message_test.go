package wire_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestDeliverySize(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		d    wire.Delivery
		want int
	}{
		"empty":     {wire.Delivery{}, 0},
		"no header": {wire.Delivery{In: wire.In{Subject: "abc", Reply: "de", Data: make([]byte, 10)}, Stored: &wire.Stored{Stream: "S"}}, 15},
		"header":    {wire.Delivery{In: wire.In{Subject: "abc", Header: wire.Header{"K": {"v", "ww"}, "Empty": nil}}}, 3 + 6 + 7},
	} {
		if got := test.d.Size(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestReadAck(t *testing.T) {
	t.Parallel()
	want := wire.Stored{Stream: "S", Deliveries: 3, Sequence: 40, ConsumerSequence: 50, Time: time.Unix(0, 60), NumPending: 7}
	for name, subject := range map[string]string{
		"of an old server":      "$JS.ACK.S.C.3.40.50.60.7",
		"with a domain":         "$JS.ACK.hub.hash.S.C.3.40.50.60.7",
		"with a token behind":   "$JS.ACK._.hash.S.C.3.40.50.60.7.token",
		"with several of these": "$JS.ACK._.hash.S.C.3.40.50.60.7.token.more",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got wire.Stored
			if err := got.ReadAck(subject); err != nil || got != want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestReadAckRefuses(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]string{
		"nothing":          "",
		"an inbox":         "_INBOX.a.b.c.d.e.f.g.h",
		"too few tokens":   "$JS.ACK.S.C.3.40.50.60",
		"one too many":     "$JS.ACK.hub.S.C.3.40.50.60.7",
		"no number":        "$JS.ACK.S.C.3.x.50.60.7",
		"a sign":           "$JS.ACK.S.C.3.40.50.-60.7",
		"an empty token":   "$JS.ACK.S.C.3..50.60.7",
		"a number too big": "$JS.ACK.S.C.3.9223372036854775808.50.60.7",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got wire.Stored
			if err := got.ReadAck(subject); err == nil {
				t.Errorf("it was read as %+v", got)
			}
		})
	}
}

// What is read is what nats.go reads.
func FuzzReadAck(f *testing.F) {
	f.Add("$JS.ACK.S.C.3.40.50.60.7")
	f.Add("$JS.ACK._.hash.S.C.3.40.50.60.7.token")
	f.Fuzz(func(t *testing.T, subject string) {
		var got wire.Stored
		if got.ReadAck(subject) != nil {
			return
		}
		m, err := (&nats.Msg{Reply: subject, Sub: &nats.Subscription{}}).Metadata()
		if err != nil {
			t.Fatalf("read as %+v, nats.go says %v", got, err)
		}
		if got.Stream != m.Stream || got.Sequence != m.Sequence.Stream || got.ConsumerSequence != m.Sequence.Consumer ||
			got.NumPending != m.NumPending || !got.Time.Equal(m.Timestamp) || uint64(got.Deliveries) != min(m.NumDelivered, 1<<31-1) {
			t.Errorf("read as %+v, nats.go reads %+v", got, m)
		}
	})
}
