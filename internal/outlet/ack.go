package outlet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
)

// Ack is the acknowledgement of a stream for a stored message.
type Ack struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"seq"`
	Domain    string `json:"domain,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
}

// parseAck reads the answer of a stream. An error in the answer is a *jserr.Refusal.
func parseAck(reply *nats.Msg) (Ack, error) {
	if ack, ok := parseCommonAck(reply.Data); ok {
		return ack, nil
	}
	var r struct {
		Error *jserr.Refusal `json:"error"`
		Ack
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return Ack{}, fmt.Errorf("not an acknowledgement of a stream: %w", err)
	}
	if r.Error != nil {
		return Ack{}, r.Error
	}
	if r.Stream == "" {
		return Ack{}, errors.New("not an acknowledgement of a stream: it names none")
	}
	return r.Ack, nil
}

// parseCommonAck reads an acknowledgement in the form in which servers write nearly all
// of them. That takes a tenth of the time of a JSON decoder:
//
//	{"stream":"ORDERS","domain":"d","seq":17}
func parseCommonAck(text []byte) (ack Ack, ok bool) {
	if text, ok = cutQuoted(text, `{"stream":"`, &ack.Stream); !ok || ack.Stream == "" {
		return Ack{}, false
	}
	if after, has := cutQuoted(text, `,"domain":"`, &ack.Domain); has {
		text = after
	}
	text, ok = bytes.CutPrefix(text, []byte(`,`))
	text, _ = bytes.CutPrefix(text, []byte(` `))
	text, hasSequence := bytes.CutPrefix(text, []byte(`"seq":`))
	text, ends := bytes.CutSuffix(text, []byte(`}`))
	if !ok || !hasSequence || !ends {
		return Ack{}, false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	ack.Sequence = n
	return ack, err == nil
}

// cutQuoted sets into to the string that begins after start. It fails if the string has an
// escape.
func cutQuoted(text []byte, start string, into *string) (after []byte, ok bool) {
	value, ok := bytes.CutPrefix(text, []byte(start))
	end := bytes.IndexByte(value, '"')
	if !ok || end < 0 || bytes.IndexByte(value[:end], '\\') >= 0 {
		return text, false
	}
	*into = string(value[:end])
	return value[end+1:], true
}
