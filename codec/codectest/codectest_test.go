package codectest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/codec/codectest"
)

// broken is JSON with some methods replaced.
type broken struct {
	contentType func() string
	marshal     func(v any) ([]byte, error)
	unmarshal   func(data []byte, v any) error
}

func (b broken) ContentType() string {
	if b.contentType != nil {
		return b.contentType()
	}
	return "application/json"
}

func (b broken) Marshal(v any) ([]byte, error) {
	if b.marshal != nil {
		return b.marshal(v)
	}
	return codec.JSON.Marshal(v)
}

func (b broken) Unmarshal(data []byte, v any) error {
	if b.unmarshal != nil {
		return b.unmarshal(data, v)
	}
	return codec.JSON.Unmarshal(data, v)
}

func named(ct string) broken { return broken{contentType: func() string { return ct }} }

func TestCheckFindsBrokenCodecs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		codec codec.Codec
		rule  string
	}{
		"parameters":            {named("application/json; charset=utf-8"), "ContentType"},
		"upper case":            {named("Application/JSON"), "ContentType"},
		"no slash":              {named("json"), "ContentType"},
		"empty":                 {named(""), "ContentType"},
		"changing content type": {changing(), "ContentType"},
		"loses data":            {broken{marshal: func(any) ([]byte, error) { return []byte("{}"), nil }}, "RoundTrip"},
		"cannot marshal":        {broken{marshal: func(any) ([]byte, error) { return nil, errors.New("no") }}, "RoundTrip"},
		"panics":                {broken{unmarshal: func([]byte, any) error { panic("boom") }}, "RoundTrip"},
		"changes its value":     {broken{marshal: marshalAndCount}, "MarshalLeavesValue"},
		"shares its buffer":     {broken{marshal: sharedBuffer()}, "OutputIndependent"},
		"changes data":          {broken{unmarshal: unmarshalAndCount}, "UnmarshalLeavesData"},
		"takes any destination": {broken{unmarshal: ignoreWrongDestination}, "WrongDestination"},
		"panics at nil":         {broken{unmarshal: panicAtNil}, "WrongDestination"},
		"takes a channel":       {broken{marshal: marshalChan}, "UnsupportedValue"},
		"drops a value":         {broken{marshal: encodingJSON}, "EdgeValues"},
		"repeats data":          {broken{unmarshal: repeatData}, "ErrorText"},
		"takes malformed data":  {broken{unmarshal: ignoreErrors}, "Malformed"},
		"panics at malformed":   {broken{unmarshal: panicAtErrors}, "Mutated"},
		"nil is not empty":      {broken{unmarshal: acceptNilOnly}, "Empty"},
		"not concurrent":        {broken{marshal: notConcurrent()}, "Concurrent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := suite(test.codec).Check()
			if err == nil {
				t.Fatal("nothing was found")
			}
			if !strings.Contains(err.Error(), "codectest: "+test.rule+": ") {
				t.Errorf("rule %s was not named in: %v", test.rule, err)
			}
			if _, ok := errors.AsType[*codectest.Violation](err); !ok {
				t.Errorf("no *Violation in: %v", err)
			}
		})
	}
}

func TestCheckPassesGoodCodec(t *testing.T) {
	t.Parallel()
	if err := suite(broken{}).Check(); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesUselessSuites(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]codectest.Suite{
		"no codec":    {Values: []any{1}},
		"no values":   {Codec: codec.JSON},
		"untyped nil": {Codec: codec.JSON, Values: []any{nil}},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEqualOfTheSuite(t *testing.T) {
	t.Parallel()
	s := codectest.Suite{
		Codec:  broken{marshal: func(v any) ([]byte, error) { return codec.JSON.Marshal(strings.ToUpper(v.(string))) }},
		Values: []any{"word"},
		Equal:  func(a, b any) bool { return strings.EqualFold(a.(string), b.(string)) },
	}
	if err := s.Check(); err == nil || strings.Contains(err.Error(), "RoundTrip") {
		t.Errorf("Equal was not used: %v", err) // the channel's v.(string) panics: a violation
	}
}

func TestRun(t *testing.T) {
	codectest.Run(t, codec.JSON, "text", time.Now(), map[string]int{"a": 1}, &struct{ A []int }{})
}

func suite(c codec.Codec) codectest.Suite {
	return codectest.Suite{
		Codec:     c,
		Values:    []any{map[string]int{"a": 1}},
		Malformed: [][]byte{[]byte("{")},
	}
}

func changing() codec.Codec {
	var n atomic.Int64
	return broken{contentType: func() string { return "text/" + strings.Repeat("x", int(n.Add(1))) }}
}

func marshalAndCount(v any) ([]byte, error) {
	data, err := codec.JSON.Marshal(v)
	if m, ok := v.(map[string]int); ok {
		m["a"]++
	}
	return data, err
}

// sharedBuffer returns one output again for equal values.
func sharedBuffer() func(v any) ([]byte, error) {
	var last atomic.Pointer[[]byte]
	return func(v any) ([]byte, error) {
		data, err := codec.JSON.Marshal(v)
		if err != nil {
			return nil, err
		}
		if kept := last.Load(); kept != nil && len(*kept) == len(data) {
			return *kept, nil
		}
		last.Store(&data)
		return data, nil
	}
}

func unmarshalAndCount(data []byte, v any) error {
	err := codec.JSON.Unmarshal(bytes.Clone(data), v)
	clear(data)
	return err
}

func ignoreWrongDestination(data []byte, v any) error {
	err := codec.JSON.Unmarshal(data, v)
	if _, wrong := errors.AsType[*codec.TypeError](err); wrong {
		return nil
	}
	return err
}

func panicAtNil(data []byte, v any) error {
	if v == nil {
		panic("nil")
	}
	return codec.JSON.Unmarshal(data, v)
}

func marshalChan(v any) ([]byte, error) {
	if _, ok := v.(chan int); ok {
		return []byte("{}"), nil
	}
	return codec.JSON.Marshal(v)
}

// encodingJSON is what a codec without any check of types does.
func encodingJSON(v any) ([]byte, error) { return json.Marshal(v) }

func repeatData(data []byte, v any) error {
	if err := codec.JSON.Unmarshal(data, v); err != nil {
		return errors.New(string(data))
	}
	return nil
}

func ignoreErrors(data []byte, v any) error {
	_ = json.Unmarshal(data, v)
	return nil
}

func panicAtErrors(data []byte, v any) error {
	err := codec.JSON.Unmarshal(data, v)
	if _, malformed := errors.AsType[*codec.SyntaxError](err); malformed {
		panic(err)
	}
	return err
}

func acceptNilOnly(data []byte, v any) error {
	if data == nil {
		return nil
	}
	return codec.JSON.Unmarshal(data, v)
}

func notConcurrent() func(v any) ([]byte, error) {
	var inside atomic.Int64
	return func(v any) ([]byte, error) {
		defer inside.Add(-1)
		if inside.Add(1) > 1 {
			return nil, errors.New("two at once")
		}
		time.Sleep(100 * time.Microsecond)
		return codec.JSON.Marshal(v)
	}
}
