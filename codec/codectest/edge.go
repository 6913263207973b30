package codectest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// maxErrorText is the maximum length of an error's text. Errors go to logs and to traces, and data
// can have many megabytes.
const maxErrorText = 4 << 10

// EdgeValues returns values that many codecs change or drop without an error. A codec must carry or
// refuse them. Every call returns new values.
func EdgeValues() []any {
	type list struct{ Next *list }
	var long *list
	for range 12_000 {
		long = &list{long}
	}
	huge, _ := new(big.Int).SetString("-123456789012345678901234567890", 10)
	meanTime := time.Date(1890, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 3208)) // as in Berlin before 1893
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.FixedZone("", 3600))
	return []any{
		int64(math.MinInt64), int64(1<<53 + 1), uint64(math.MaxUint64), math.SmallestNonzeroFloat64, math.Inf(-1),
		"a\xffb", "\xed\xa0\x80", "a\x00b", "\ufffd", "", []byte{0, 255}, []byte{}, [2]byte{1, 2},
		meanTime, []time.Time{meanTime}, map[string]any{"a": meanTime}, map[string]any{"a": []byte("bytes")},
		at, time.Time{}, struct{ T *time.Time }{&at}, 90 * time.Minute,
		[]string(nil), []string{}, map[string]int(nil), map[string]int{}, (*int)(nil),
		map[int]string{-1: "a"}, map[float64]int{1.5: 1}, map[bool]int{true: 1}, map[inner]int{{1, 2}: 1}, map[[2]int]int{{1, 2}: 1},
		netip.MustParseAddr("fe80::1%eth0"), map[netip.Addr]int{netip.IPv6Loopback(): 1}, *huge, []*big.Int{huge}, map[string]big.Int{"a": *huge},
		url.URL{Scheme: "https", Host: "example.org", Path: "/a b", User: url.UserPassword("u", "p")},
		map[hidden]int{{1}: 1}, map[noReader]int{1: 1}, map[readerOnly]int{7: 1}, map[any]int{inner{1, 2}: 1}, sameNames{inner{1, 2}, twin{3}},
		json.Number(""), json.Number("9007199254740993"), []json.Number{"1.5"}, json.RawMessage(`{"a":1}`), struct{ R json.RawMessage }{json.RawMessage(`[1]`)},
		inner{1, 2}, &inner{1, 2}, []*inner{nil, {1, 2}}, struct{ inner }{inner{1, 2}}, struct{ *inner }{&inner{1, 2}},
		hidden{1}, struct{ H hidden }{hidden{1}}, []hidden{{1}}, map[string]*hidden{"a": {1}},
		jsonForm{1}, struct{ J jsonForm }{jsonForm{1}}, map[string]jsonForm{"a": {1}}, textForm{1}, struct{ T textForm }{textForm{1}},
		pointerForm{1}, map[string]pointerForm{"a": {1}}, bothForms{1}, []bothForms{{1}}, noReader(1),
		embedsTime{at, "name"}, struct{ E error }{errors.New("an error")}, struct{ S fmt.Stringer }{at}, errors.New("an error"),
		durationpb.New(time.Hour), struct{ D *durationpb.Duration }{durationpb.New(time.Hour)},
		long, map[string]any{"a": "b", "c": nil, "d": []any{true}}, any(map[string]any{}), strings.Repeat("long", 1<<16),
	}
}

// hidden has no exported fields. Reflection sees nothing to encode.
type hidden struct{ n int }

// jsonForm has a form in JSON and nothing else.
type jsonForm struct{ n int }

func (j jsonForm) MarshalJSON() ([]byte, error)     { return json.Marshal([]int{j.n}) }
func (j *jsonForm) UnmarshalJSON(data []byte) error { return readOne(data, &j.n) }

// textForm has a form as text and nothing else.
type textForm struct{ n int }

func (t textForm) MarshalText() ([]byte, error)     { return json.Marshal([]int{t.n}) }
func (t *textForm) UnmarshalText(data []byte) error { return readOne(data, &t.n) }

// pointerForm has methods on its pointer. Some encoders ignore them for values in maps.
type pointerForm struct{ n int }

func (p *pointerForm) MarshalJSON() ([]byte, error)    { return json.Marshal([]int{p.n}) }
func (p *pointerForm) UnmarshalJSON(data []byte) error { return readOne(data, &p.n) }

// bothForms differ. What one method writes only its own counterpart can read.
type bothForms struct{ n int }

func (b bothForms) MarshalJSON() ([]byte, error)       { return json.Marshal([]int{b.n}) }
func (b *bothForms) UnmarshalJSON(data []byte) error   { return readOne(data, &b.n) }
func (b bothForms) MarshalBinary() ([]byte, error)     { return []byte{byte(b.n)}, nil }
func (b *bothForms) UnmarshalBinary(data []byte) error { b.n = int(data[0]); return nil }

// noReader can be written but not read.
type noReader int

func (noReader) MarshalText() ([]byte, error) { return []byte("some text"), nil }

// readerOnly can be read from text but is not written as text.
type readerOnly int

func (r *readerOnly) UnmarshalText(text []byte) error { *r = readerOnly(len(text)); return nil }

// sameNames has two fields A. Most encoders write neither.
type (
	inner     struct{ A, B int }
	twin      struct{ A int }
	sameNames struct {
		inner
		twin
	}
)

// embedsTime has the methods of time.Time, which do not know its name.
type embedsTime struct {
	time.Time
	Name string
}

// readOne reads a list of one number.
func readOne(data []byte, n *int) error {
	var list []int
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if len(list) != 1 {
		return errors.New("want a list of one number")
	}
	*n = list[0]
	return nil
}

// checkEdgeValues checks that each edge value is refused by Marshal or comes back.
func (s Suite) checkEdgeValues() error {
	values := s.Edge
	if values == nil {
		values = EdgeValues()
	}
	var errs []error
	for _, v := range values {
		errs = append(errs, s.checkEdgeValue(v))
	}
	return errors.Join(errs...)
}

// checkEdgeValue checks one edge value.
func (s Suite) checkEdgeValue(v any) error {
	data, err := s.marshal(v)
	switch {
	case panicked(err):
		return err
	case err != nil && len(err.Error()) > maxErrorText:
		return fmt.Errorf("Marshal(%s): the text of the error has %d bytes, want %d at most", describe(v), len(err.Error()), maxErrorText)
	case err != nil:
		return nil
	}
	got, err := s.decode(data, v)
	if err != nil {
		return fmt.Errorf("Marshal(%s) gave no error, but the result cannot be read: %w", describe(v), err)
	}
	if err := s.wantEqual(got, v); err != nil {
		return fmt.Errorf("Marshal gave no error, but the value changed: %w", err)
	}
	return nil
}

// checkErrorText checks that the errors of Unmarshal do not repeat long data.
func (s Suite) checkErrorText() error {
	return s.each(func(v any) error {
		for _, char := range []string{"9", "a", `"`, "[", "\xff"} {
			long := strings.Repeat(char, 64<<10)
			for _, data := range []string{long, `"` + long + `"`, `{"a":` + long + "}", `{"` + long + `":0}`} {
				_, err := s.decode([]byte(data), v)
				if err != nil && len(err.Error()) > maxErrorText {
					return fmt.Errorf("Unmarshal(%s, %T): the text of the error has %d bytes, want %d at most", describe([]byte(data)), v, len(err.Error()), maxErrorText)
				}
			}
		}
		return nil
	})
}
