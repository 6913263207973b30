package outlet

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
)

// Whoever may answer on a stream's subject can send anything as an acknowledgement. It is read
// as a JSON decoder reads it, or refused.
func FuzzParseAck(f *testing.F) {
	for _, s := range []string{
		`{"stream":"ORDERS","domain":"d","seq":17}`, `{"stream":"ORDERS", "seq":17}`, `{"stream":"S","seq":1,"duplicate":true}`,
		`{"error":{"code":503,"err_code":10076,"description":"no"},"stream":"S"}`, `{"stream":"","seq":1}`, `{"stream":"a\"b","seq":1}`,
		`{"stream":"S","seq":99999999999999999999}`, `{"stream":"S","seq":-1}`, `{"stream":"S","seq":+1}`, `{"stream":"S","seq":007}`, `+ERR`, ``, `null`,
		"{\"stream\":\"\x01\xff\",\"seq\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ack, err := parseAck(&nats.Msg{Data: data})
		if err != nil {
			if ack != (Ack{}) {
				t.Fatalf("%+v with %v", ack, err)
			}
			return
		}
		var want struct {
			Error *jserr.Refusal `json:"error"`
			Ack
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("%q is read as %+v, but it is no JSON: %v", data, ack, err)
		}
		if want.Error != nil || ack != want.Ack || ack.Stream == "" {
			t.Fatalf("%q is read as %+v, want %+v", data, ack, want)
		}
	})
}

// The same for the refusals.
func FuzzParseRefusal(f *testing.F) {
	f.Add(503, 10076, "no")
	f.Add(-1, 1<<30, "\xff")
	f.Fuzz(func(t *testing.T, code, number int, text string) {
		data, err := json.Marshal(map[string]any{"error": map[string]any{"code": code, "err_code": number, "description": text}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseAck(&nats.Msg{Data: data})
		if refused, ok := errors.AsType[*jserr.Refusal](err); ok && refused.Number != number {
			t.Fatalf("%s is read as %v", data, err)
		} else if err == nil {
			t.Fatalf("%s is read as an acknowledgement", data)
		}
	})
}
