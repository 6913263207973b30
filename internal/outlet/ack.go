package outlet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/wire"
)

// Ack is the acknowledgement of a stream for a stored message.
type Ack struct {
	Stream    string `json:"stream"`
	Sequence  uint64 `json:"seq"`
	Domain    string `json:"domain,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
}

// parseAck reads the answer of a stream. An error in the answer is a *jserr.Refusal. An
// answer that no stream gives is a *StrangerError.
func parseAck(reply *nats.Msg) (Ack, error) {
	if ack, ok := parseCommonAck(reply.Data); ok {
		return ack, nil
	}
	var r struct {
		Error *jserr.Refusal `json:"error"`
		Ack
	}
	if err := json.Unmarshal(reply.Data, &r); err != nil {
		return Ack{}, &StrangerError{reply.Header}
	}
	if r.Error != nil {
		return Ack{}, r.Error
	}
	if r.Stream == "" || r.Sequence == 0 {
		return Ack{}, &StrangerError{reply.Header}
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
	return ack, err == nil && text[0] != '0' // JSON has no leading zeros, and 0 is no sequence
}

// cutQuoted sets into to the string that begins after start. It fails if the string is not
// plain ASCII without escapes.
func cutQuoted(text []byte, start string, into *string) (after []byte, ok bool) {
	value, ok := bytes.CutPrefix(text, []byte(start))
	end := bytes.IndexByte(value, '"')
	if !ok || end < 0 {
		return text, false
	}
	for _, c := range value[:end] {
		if c == '\\' || c < ' ' || c > '~' {
			return text, false
		}
	}
	*into = string(value[:end])
	return value[end+1:], true
}

// StrangerError is the error of a message that was sent to a stream and answered by
// somebody else: a responder subscribes to the same subject.
type StrangerError struct{ header nats.Header } // of the answer

func (e *StrangerError) Error() string {
	text := "the answer is not an acknowledgement of a stream"
	if message := e.header.Get(wire.HeaderNatsServiceError); message != "" {
		text = fmt.Sprintf("the answer is the error %.200q of a responder", message)
	}
	return text + "; a responder on the subject answers before the stream, give it another subject"
}

// maxAnswer is more than the bytes of any answer of a stream to a message.
const maxAnswer = 4 << 10

// AnswerOfStream reports whether reply, which answers a request, looks like the answer of a
// stream that stores the subject of the request: its acknowledgement or its refusal. A
// responder could answer the same.
func AnswerOfStream(reply *nats.Msg) (stream, domain string, ok bool) {
	if len(reply.Header) > 0 || len(reply.Data) > maxAnswer {
		return "", "", false
	}
	if ack, ok := parseCommonAck(reply.Data); ok {
		return ack.Stream, ack.Domain, true
	}
	if !bytes.HasPrefix(reply.Data, []byte(`{"stream":"`)) && !bytes.HasPrefix(reply.Data, []byte(`{"error":{"code":`)) {
		return "", "", false
	}
	var r struct {
		Error *struct {
			Code        int    `json:"code"`
			Number      int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Ack
		Counter   string `json:"val"`
		Batch     string `json:"batch"`
		BatchSize int    `json:"count"`
	}
	d := json.NewDecoder(bytes.NewReader(reply.Data))
	d.DisallowUnknownFields()
	if d.Decode(&r) != nil || r.Stream == "" || (r.Sequence == 0) != (r.Error != nil) {
		return "", "", false
	}
	return r.Stream, r.Domain, true
}
