package codec_test

import (
	"bufio"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/omnibus-go/bus/codec"
)

// carried says which codecs carry a kind of value.
type carried int

const (
	nowhere carried = iota
	inJSON
	inCBOR
	inBoth
)

func (c carried) by(which codec.Codec) bool {
	return c == inBoth || c == inJSON && which == codec.JSON || c == inCBOR && which == codec.CBOR
}

// kind is a kind of value, and where it can be carried.
type kind struct {
	name  string
	value any
	in    carried
	// alone is for values whose containers differ: they are not wrapped.
	alone bool
}

// onlyJSON has a JSON form and nothing else.
type onlyJSON struct{ secret string }

func (o onlyJSON) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"is": o.secret})
}

func (o *onlyJSON) UnmarshalJSON(data []byte) error {
	var m map[string]string
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	secret, ok := m["is"]
	if !ok {
		return errors.New("no secret")
	}
	o.secret = secret
	return nil
}

// pointerJSON has it by pointer alone, which encoding/json ignores in maps.
type pointerJSON struct{ secret int }

func (p *pointerJSON) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, int64(p.secret), 10), nil
}
func (p *pointerJSON) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &p.secret) }

// writeOnly cannot be read back.
type (
	writeOnlyText   int
	writeOnlyJSON   struct{ secret int }
	writeOnlyString string
)

func (writeOnlyText) MarshalText() ([]byte, error)     { return []byte("x"), nil }
func (writeOnlyJSON) MarshalJSON() ([]byte, error)     { return []byte(`"x"`), nil }
func (w writeOnlyString) MarshalText() ([]byte, error) { return []byte(w), nil }

// color is an enum by name in JSON.
type color int

func (c color) MarshalJSON() ([]byte, error) { return json.Marshal([]string{"red", "green"}[c]) }

func (c *color) UnmarshalJSON(data []byte) error {
	var name string
	if err := json.Unmarshal(data, &name); err != nil {
		return err
	}
	n, ok := map[string]color{"red": 0, "green": 1}[name]
	if !ok {
		return errors.New("no color")
	}
	*c = n
	return nil
}

// id has a text and a binary form, as UUIDs do.
type id [4]byte

func (i id) MarshalText() ([]byte, error)       { return fmt.Appendf(nil, "%x", i[:]), nil }
func (i id) MarshalBinary() ([]byte, error)     { return i[:], nil }
func (i *id) UnmarshalBinary(data []byte) error { copy(i[:], data); return nil }
func (i *id) UnmarshalText(data []byte) error {
	_, err := fmt.Sscanf(string(data), "%x", (*[4]byte)(i))
	if err != nil {
		var b []byte
		if _, err = fmt.Sscanf(string(data), "%x", &b); err == nil {
			copy(i[:], b)
		}
	}
	return err
}

// decimal has all forms but CBOR's, as those of decimal libraries do.
type decimal struct{ text string }

func (d decimal) MarshalText() ([]byte, error)       { return []byte(d.text), nil }
func (d *decimal) UnmarshalText(data []byte) error   { d.text = string(data); return nil }
func (d decimal) MarshalBinary() ([]byte, error)     { return []byte("b" + d.text), nil }
func (d *decimal) UnmarshalBinary(data []byte) error { d.text = string(data[1:]); return nil }
func (d decimal) MarshalJSON() ([]byte, error)       { return json.Marshal(d.text) }
func (d *decimal) UnmarshalJSON(data []byte) error   { return json.Unmarshal(data, &d.text) }

// reversed is written backwards, except as a key in JSON.
type reversed string

func (r reversed) MarshalText() ([]byte, error) {
	text := []byte(r)
	slices.Reverse(text)
	return text, nil
}

func (r *reversed) UnmarshalText(data []byte) error {
	text, err := reversed(data).MarshalText()
	*r = reversed(text)
	return err
}

// readOnlyKey is written as a number and read as text.
type readOnlyKey int

func (k *readOnlyKey) UnmarshalText(data []byte) error { *k = readOnlyKey(len(data)); return nil }

// The types of Kubernetes, Stripe, GitHub and CloudEvents below have the shapes of the real ones.
// The real ones are no dependency of the library. TestRealWebhooks carries real payloads, and
// TestRealTypes in bench does so in the types of go-github and CloudEvents.

// Shapes of Kubernetes: a type that is a number or a text, a quantity, and a time.

type intOrString struct {
	isText bool
	number int
	text   string
}

func (i intOrString) MarshalJSON() ([]byte, error) {
	if i.isText {
		return json.Marshal(i.text)
	}
	return json.Marshal(i.number)
}

func (i *intOrString) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		i.isText = true
		return json.Unmarshal(data, &i.text)
	}
	return json.Unmarshal(data, &i.number)
}

type quantity struct {
	value int64
	unit  string
}

func (q quantity) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprint(q.value, q.unit)) }

func (q *quantity) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	digits := strings.TrimRight(text, "KMGimuk")
	q.unit = text[len(digits):]
	var err error
	q.value, err = strconv.ParseInt(digits, 10, 64)
	return err
}

// metaTime embeds a time, whose text and binary forms it inherits.
type metaTime struct{ time.Time }

func (t metaTime) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(t.UTC().Format(time.RFC3339))
}

func (t *metaTime) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := time.Parse(time.RFC3339, text)
	t.Time = parsed.UTC()
	return err
}

type typeMeta struct {
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
}

type objectMeta struct {
	Name    string            `json:"name,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created metaTime          `json:"creationTimestamp"`
	Deleted *metaTime         `json:"deletionTimestamp,omitempty"`
}

type deployment struct {
	typeMeta
	objectMeta `json:"metadata,omitempty"` //nolint:modernize // the types of others are so
	Spec       struct {
		Replicas *int32              `json:"replicas,omitempty"`
		MaxSurge *intOrString        `json:"maxSurge,omitempty"`
		Limits   map[string]quantity `json:"limits,omitempty"`
		Ports    []intOrString       `json:"ports"`
		Raw      json.RawMessage     `json:"raw,omitempty"`
		Extra    map[string]any      `json:"extra,omitempty"`
	} `json:"spec"`
}

func someDeployment() deployment {
	var d deployment
	replicas := int32(3)
	d.Kind, d.APIVersion, d.Name = "Deployment", "apps/v1", "web"
	d.Labels = map[string]string{"app": "web", "app.kubernetes.io/name": "ü"}
	d.Created = metaTime{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	d.Spec.Replicas, d.Spec.MaxSurge = &replicas, &intOrString{isText: true, text: "25%"}
	d.Spec.Limits = map[string]quantity{"cpu": {500, "m"}, "memory": {2, "Gi"}}
	d.Spec.Ports = []intOrString{{number: 80}, {isText: true, text: "http"}}
	d.Spec.Raw = json.RawMessage(`{"a":[1,2.5,null]}`)
	d.Spec.Extra = map[string]any{"x": []any{"y", 1.5, nil}}
	return d
}

// Stripe's expandable fields are an identifier or the whole object.

type customer struct {
	ID    string `json:"id"`
	Email string `json:"email,omitempty"`
}

type expandable struct {
	ID     string
	Object *customer
}

func (e expandable) MarshalJSON() ([]byte, error) {
	if e.Object != nil {
		return json.Marshal(e.Object)
	}
	return json.Marshal(e.ID)
}

func (e *expandable) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &e.ID)
	}
	e.Object = &customer{}
	err := json.Unmarshal(data, e.Object)
	e.ID = e.Object.ID
	return err
}

type charge struct {
	ID       string            `json:"id"`
	Amount   int64             `json:"amount"`
	Created  int64             `json:"created"`
	Customer *expandable       `json:"customer"`
	Parent   expandable        `json:"parent"`
	Metadata map[string]string `json:"metadata"`
	Total    decimal           `json:"total"`
}

// price is read by a method and written without one, as Stripe's are. The option string is
// known to JSON alone.
type price struct {
	ID     string   `json:"id"`
	Amount *float64 `json:"amount,string"`
	Raw    []byte   `json:"raw"`
}

func (p *price) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &p.ID)
	}
	type fields price
	return json.Unmarshal(data, (*fields)(p))
}

// githubTime is a time that is read from seconds too.
type githubTime struct{ time.Time }

func (t *githubTime) UnmarshalJSON(data []byte) error {
	if seconds, err := strconv.ParseInt(string(data), 10, 64); err == nil {
		t.Time = time.Unix(seconds, 0).UTC()
		return nil
	}
	return json.Unmarshal(data, &t.Time)
}

type githubUser struct {
	Login *string `json:"login,omitempty"`
	ID    *int64  `json:"id,omitempty"`
	Admin *bool   `json:"site_admin,omitempty"`
}

type githubEvent struct {
	Action     *string     `json:"action,omitempty"`
	Sender     *githubUser `json:"sender,omitempty"`
	Repository *struct {
		ID       *int64          `json:"id,omitempty"`
		FullName *string         `json:"full_name,omitempty"`
		Owner    *githubUser     `json:"owner,omitempty"`
		Created  *githubTime     `json:"created_at,omitempty"`
		Pushed   *githubTime     `json:"pushed_at,omitempty"`
		Topics   []string        `json:"topics"`
		License  json.RawMessage `json:"license,omitempty"`
	} `json:"repository,omitempty"`
	Changes map[string]any `json:"changes"`
}

// cloudEvent has its data as JSON or as bytes, and extensions.
type cloudEvent struct {
	ID          string            `json:"id"`
	Source      *url.URL          `json:"-"`
	SourceText  string            `json:"source"`
	SpecVersion string            `json:"specversion"`
	Type        string            `json:"type"`
	Time        *time.Time        `json:"time,omitempty"`
	Data        json.RawMessage   `json:"data,omitempty"`
	DataBase64  []byte            `json:"data_base64,omitempty"`
	Extensions  map[string]string `json:"extensions,omitempty"`
}

type (
	plain     struct{ A, B int }
	opt       struct{ D string }
	embedding struct {
		plain
		*Opt
		C int
	}
	Opt          struct{ D string }
	hiddenOnly   struct{ x, y int }
	embedsHidden struct {
		sync.Mutex
		A int
	}
	embedsTime struct {
		time.Time
		Name string
	}
	embedsTwo struct {
		time.Time
		onlyJSON
		Name string
	}
	embedsUnexportedPointer struct {
		*opt
		A int
	}
	tagged struct {
		A int    `json:"a,string"`
		B string `json:"-"`
		C []byte `json:"c,omitempty"`
		D *int   `json:"d,omitempty"`
		E any    `json:"e"`
		F int    `json:"f,omitzero"`
		G int    `json:"-,"` //nolint:staticcheck // the name is a dash
		H string `json:"h" cbor:"hh"`
	}
	recursive struct {
		Kids []recursive
		Next *recursive
		Map  map[string]recursive
		big  *recursive //nolint:unused // its type counts
	}
	withNumber struct{ N json.Number }
	nullable   struct {
		S sql.NullString
		T *time.Time
		M map[string]int
		L []int
	}
	withMessage  struct{ At *timestamppb.Timestamp }
	withStruct   struct{ Meta *structpb.Struct }
	withStringer struct{ V fmt.Stringer }
	withError    struct{ Err error }
	withAtomic   struct{ N atomic.Int64 }
	withLock     struct {
		mu sync.Mutex //nolint:unused // its type counts
		A  int
	}
	// The names of two fields are the same.
	sameNames struct {
		plain
		other
	}
	other    struct{ A int }
	oneNamed struct { // the field with a tag is written
		plain
		named
	}
	named struct {
		X int `json:"A"`
	}
	hiding struct { // the outer one is written
		plain
		A string
	}
	numbered struct {
		N json.Number `json:"n,omitempty"`
	}
	withExcluded struct {
		F func()   `json:"-"`
		C chan int `json:"-"`
		A int
	}
)

func at(offset int) time.Time {
	zone := time.UTC
	if offset != 0 {
		zone = time.FixedZone("", offset)
	}
	return time.Date(2026, 2, 3, 4, 5, 6, 789, zone)
}

// sameTags returns a struct of which two fields have the same tag. The compiler's checks would
// find it in the source.
func sameTags() any {
	number := reflect.TypeFor[int]()
	return reflect.New(reflect.StructOf([]reflect.StructField{
		{Name: "A", Type: number, Tag: `json:"x"`}, {Name: "B", Type: number, Tag: `json:"x"`},
	})).Elem().Interface()
}

// meanTime is the zone of Berlin before 1893, 53 minutes and 28 seconds from UTC.
var meanTime = time.FixedZone("LMT", 3208)

func atMeanTime() time.Time { return time.Date(1890, 1, 2, 3, 4, 5, 6, meanTime) }

func parsed[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func bigInt(text string) *big.Int {
	i, _ := new(big.Int).SetString(text, 10)
	return i
}

// kinds are wrapped in pointers, slices, maps and structs.
func kinds() []kind {
	seven := 7
	return []kind{
		{name: "bool", value: true, in: inBoth},
		{name: "int", value: -7, in: inBoth},
		{name: "int8", value: int8(math.MinInt8), in: inBoth},
		{name: "int16", value: int16(math.MinInt16), in: inBoth},
		{name: "int32", value: 'ß', in: inBoth},
		{name: "int64", value: int64(math.MinInt64), in: inBoth},
		{name: "int 2^53+1", value: int64(1<<53 + 1), in: inBoth},
		{name: "uint8", value: uint8(255), in: inBoth, alone: true},
		{name: "uint16", value: uint16(math.MaxUint16), in: inBoth},
		{name: "uint32", value: uint32(math.MaxUint32), in: inBoth},
		{name: "uint64", value: uint64(math.MaxUint64), in: inBoth},
		{name: "uintptr", value: uintptr(5), in: inJSON},
		{name: "float32", value: float32(math.MaxFloat32), in: inBoth},
		{name: "float64", value: math.SmallestNonzeroFloat64, in: inBoth},
		{name: "0.1", value: 0.1, in: inBoth},
		{name: "negative zero", value: math.Copysign(0, -1), in: inBoth},
		{name: "Inf", value: math.Inf(1), in: inCBOR},
		{name: "complex", value: complex(1, 2), in: nowhere},
		{name: "string", value: "grüße \x00\u2028 <a&'\">", in: inBoth},
		{name: "empty string", value: "", in: inBoth},
		{name: "replacement character", value: "a\ufffdb", in: inBoth},
		{name: "escape of one", value: `a\ufffdb`, in: inBoth},
		{name: "not UTF-8", value: "a\xff\xfeb", in: inCBOR},
		{name: "surrogate", value: "\xed\xa0\x80", in: inCBOR},
		{name: "named string", value: word("w"), in: inBoth},
		{name: "bytes", value: []byte{0, 255}, in: inBoth},
		{name: "named bytes", value: doc("x"), in: inBoth},
		{name: "byte array", value: [3]byte{1, 2, 3}, in: inBoth},
		{name: "bytes of bytes", value: [][]byte{{1}, {}}, in: inBoth},
		{name: "time", value: at(0), in: inBoth},
		{name: "time with offset", value: at(3600), in: inBoth},
		{name: "zero time", value: time.Time{}, in: inBoth},
		{name: "year 10000", value: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), in: nowhere},
		{name: "offset with seconds", value: atMeanTime(), in: nowhere},
		{name: "offset of a day", value: at(24 * 3600), in: nowhere},
		{name: "offset of minus a day", value: at(-24 * 3600), in: nowhere},
		{name: "null time, offset with seconds", value: sql.NullTime{Time: atMeanTime(), Valid: true}, in: nowhere},
		{name: "a type with that time", value: githubTime{atMeanTime()}, in: nowhere},
		{name: "a type with a time", value: githubTime{at(0)}, in: inBoth},
		{name: "that time in an any", value: map[string]any{"t": atMeanTime()}, in: nowhere},
		{name: "that time as a key", value: map[time.Time]int{atMeanTime(): 1}, in: nowhere},
		{name: "duration", value: 90 * time.Minute, in: inBoth},
		{name: "weekday", value: time.Friday, in: inBoth},
		{name: "text form", value: status("up"), in: inBoth},
		{name: "addr", value: netip.MustParseAddr("fe80::1%eth0"), in: inBoth},
		{name: "addr port", value: netip.MustParseAddrPort("10.0.0.1:80"), in: inBoth},
		{name: "prefix", value: netip.MustParsePrefix("10.0.0.0/8"), in: inBoth},
		{name: "IP", value: net.ParseIP("10.0.0.1"), in: inBoth},
		{name: "IPNet", value: net.IPNet{IP: net.IP{10, 0, 0, 0}.To16(), Mask: net.IPMask{255, 0, 0, 0}}, in: inBoth},
		{name: "hardware address", value: net.HardwareAddr{1, 2, 3, 4, 5, 6}, in: inBoth},
		{name: "URL", value: *parsed(url.Parse("https://example.org/a%20b?c=d#e")), in: inBoth},
		{name: "URL with user", value: *parsed(url.Parse("https://u:p@example.org/")), in: inCBOR},
		{name: "level", value: slog.LevelWarn, in: inBoth},
		{name: "big.Int", value: *bigInt("123456789012345678901234567890"), in: inBoth},
		{name: "negative big.Int", value: *bigInt("-123456789012345678901234567890"), in: inBoth},
		{name: "big.Rat", value: *big.NewRat(1, 3), in: inBoth},
		{name: "big.Float", value: *big.NewFloat(1.5), in: inBoth},
		{name: "json.Number", value: json.Number("9007199254740993"), in: inJSON},
		{name: "empty json.Number", value: json.Number(""), in: nowhere},
		{name: "empty number in a field", value: withNumber{}, in: nowhere},
		{name: "omitted number in a field", value: numbered{}, in: inJSON},
		{name: "empty number in an any", value: []any{json.Number("")}, in: nowhere},
		{name: "RawMessage with blanks", value: json.RawMessage(` { "a" : "<" } `), in: inBoth},
		{name: "RawMessage", value: json.RawMessage(`{"a":[1,-2.5e-7,null,true,"x"],"b":123456789012345678901234567890}`), in: inBoth},
		{name: "only JSON", value: onlyJSON{"s"}, in: inBoth},
		{name: "JSON by pointer", value: pointerJSON{7}, in: inBoth},
		{name: "enum by name", value: color(1), in: inBoth},
		{name: "text and binary", value: id{1, 2, 3, 255}, in: inBoth},
		{name: "all forms", value: decimal{"1.50"}, in: inBoth},
		{name: "int or string, int", value: intOrString{number: 5}, in: inBoth},
		{name: "int or string, string", value: intOrString{isText: true, text: "5"}, in: inBoth},
		{name: "quantity", value: quantity{500, "m"}, in: inBoth},
		{name: "meta time", value: metaTime{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, in: inBoth},
		{name: "zero meta time", value: metaTime{}, in: inBoth, alone: true},
		{name: "expandable id", value: expandable{ID: "cus_1"}, in: inBoth},
		{name: "expandable object", value: expandable{ID: "cus_1", Object: &customer{ID: "cus_1", Email: "a@b"}}, in: inBoth},
		{name: "deployment", value: someDeployment(), in: inBoth},
		{name: "charge", value: charge{ID: "ch", Amount: 100, Customer: &expandable{ID: "c"}, Parent: expandable{ID: "d", Object: &customer{ID: "d"}}, Metadata: map[string]string{}, Total: decimal{"1.50"}}, in: inBoth},
		{name: "price", value: price{ID: "p", Amount: new(1.5)}, in: inJSON},
		{name: "price without the amount", value: price{ID: "p", Raw: []byte{0, 255}}, in: inBoth},
		{name: "price of hidden amount", value: map[string]*price{"a": {Amount: new(math.MaxFloat64)}}, in: inJSON},
		{name: "cloud event", value: cloudEvent{ID: "1", SourceText: "/s", SpecVersion: "1.0", Type: "t", Time: new(at(0)), Data: json.RawMessage(`{"a":1}`), DataBase64: []byte{1}, Extensions: map[string]string{"x": "y"}}, in: inBoth},
		{name: "order", value: someOrder(), in: inBoth},
		{name: "embedded", value: embedding{plain{1, 2}, &Opt{"d"}, 3}, in: inBoth},
		{name: "embedded nil", value: embedding{plain: plain{1, 2}}, in: inBoth},
		{name: "tags", value: tagged{A: 1, C: []byte{1}, D: &seven, E: "x", G: 2, H: "h"}, in: inBoth},
		{name: "recursive", value: recursive{Kids: []recursive{{}}, Next: &recursive{}, Map: map[string]recursive{"a": {}}}, in: inBoth},
		{name: "nullable", value: nullable{S: sql.NullString{String: "x", Valid: true}, L: []int{}}, in: inBoth},
		{name: "null time", value: sql.NullTime{Time: at(0), Valid: true}, in: inBoth},
		{name: "empty struct", value: struct{}{}, in: inBoth},
		{name: "map of ints", value: map[int]string{1: "a", -2: "b"}, in: inBoth},
		{name: "map of texts", value: map[netip.Addr]int{netip.MustParseAddr("::1"): 1}, in: inBoth},
		{name: "map of floats", value: map[float64]int{1.5: 1}, in: inCBOR},
		{name: "map of structs", value: map[plain]int{{1, 2}: 1}, in: inCBOR},
		{name: "map of arrays", value: map[[2]int]int{{1, 2}: 1}, in: inCBOR},
		{name: "map of bools", value: map[bool]int{true: 1}, in: inCBOR},
		{name: "any values", value: map[string]any{"a": "b", "c": 1.5, "d": nil, "e": true, "f": []any{map[string]any{}}}, in: inBoth},
		{name: "bytes in an any", value: map[string]any{"a": []byte("x")}, in: inCBOR},
		{name: "large numbers in an any", value: map[string]any{"a": 1e300, "b": 1152921504606847000.0, "c": 0.30000000000000004, "d": "9007199254740993"}, in: inBoth},
		{name: "integer in an any", value: []any{int64(-1<<53 - 1)}, in: inCBOR},
		{name: "map of numbers", value: map[json.Number]int{"1.5": 1, "": 2}, in: inBoth},
		{name: "map of reversed, the same", value: map[reversed]int{"aba": 1}, in: inBoth},
		{name: "map of anys", value: map[any]int{"a": 1, uint64(1): 2, 1.5: 3, true: 4, int64(-1): 5}, in: inCBOR},
		{name: "one of two has a tag", value: oneNamed{plain{0, 2}, named{1}}, in: inBoth},
		{name: "one is embedded deeper", value: hiding{plain{0, 2}, "x"}, in: inBoth},
		{name: "excluded", value: withExcluded{A: 1}, in: inBoth},
		{name: "embeds a mutex", value: &embedsHidden{A: 1}, in: inBoth},
		{name: "has a mutex", value: &withLock{A: 1}, in: inBoth},
		{name: "written as text, string", value: writeOnlyString("x"), in: inBoth},
		{name: "message by its JSON", value: withStruct{parsed(structpb.NewStruct(map[string]any{"a": 1.0}))}, in: inBoth},

		// What would arrive empty, or not at all.
		{name: "hidden", value: hiddenOnly{1, 2}, in: nowhere},
		{name: "atomic", value: &withAtomic{}, in: nowhere},
		{name: "embeds a time", value: embedsTime{at(0), "n"}, in: nowhere},
		{name: "embeds two", value: embedsTwo{at(0), onlyJSON{"s"}, "n"}, in: nowhere},
		{name: "embeds a pointer to an unexported", value: embedsUnexportedPointer{&opt{"d"}, 1}, in: nowhere},
		{name: "written as text", value: writeOnlyText(1), in: nowhere},
		{name: "written as JSON", value: writeOnlyJSON{1}, in: nowhere},
		{name: "number in a field", value: withNumber{"1"}, in: inJSON},
		{name: "message", value: withMessage{timestamppb.New(at(0))}, in: nowhere},
		{name: "nil message", value: withMessage{}, in: nowhere},
		{name: "stringer", value: withStringer{at(0)}, in: nowhere},
		{name: "no stringer", value: withStringer{}, in: inBoth},
		{name: "error", value: withError{errors.New("x")}, in: nowhere},
		{name: "two fields with a tag", value: sameTags(), in: nowhere},
		{name: "two embedded fields", value: sameNames{plain{1, 2}, other{3}}, in: nowhere},
		{name: "map of reversed", value: map[reversed]int{"ab": 1}, in: inCBOR},
		{name: "map of keys that are read as text", value: map[readOnlyKey]int{7: 1}, in: inCBOR},
		{name: "map of keys that are written as text", value: map[writeOnlyText]int{7: 1}, in: nowhere},
		{name: "map of hidden", value: map[hiddenOnly]int{{1, 2}: 1}, in: nowhere},
		{name: "map of pointers", value: map[*int]int{&seven: 1}, in: nowhere},
		{name: "map of arrays of anys", value: map[[1]any]int{{1}: 1}, in: nowhere},
		{name: "map of anys, a struct", value: map[any]int{plain{1, 2}: 1}, in: nowhere},
		{name: "map of anys, nil", value: map[any]int{nil: 1}, in: nowhere},
		{name: "map of anys, a time", value: map[any]int{time.Unix(1, 0).UTC(): 1}, in: nowhere},
		{name: "map of anys, the same", value: map[any]int{int8(1): 1, uint(1): 2}, in: nowhere},
		{name: "channel", value: make(chan int), in: nowhere},
		{name: "func in struct", value: struct{ F func() }{}, in: nowhere},
	}
}

// containers of v, by name.
func containers(v any) map[string]any {
	rv := reflect.ValueOf(v)
	t := rv.Type()
	pointer := reflect.New(t)
	pointer.Elem().Set(rv)
	slice := reflect.Append(reflect.New(reflect.SliceOf(t)).Elem(), rv)
	array := reflect.New(reflect.ArrayOf(1, t)).Elem()
	array.Index(0).Set(rv)
	m := reflect.MakeMap(reflect.MapOf(reflect.TypeFor[string](), t))
	m.SetMapIndex(reflect.ValueOf("k"), rv)
	field := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "F", Type: t}, {Name: "G", Type: reflect.TypeFor[any]()}})).Elem()
	field.Field(0).Set(rv)
	return map[string]any{
		"alone": v, "pointer": pointer.Interface(), "slice": slice.Interface(),
		"array": array.Interface(), "map": m.Interface(), "field": field.Interface(),
	}
}

// Each kind of value is carried by a codec, or refused by Marshal.
func TestValuesArriveOrAreRefused(t *testing.T) {
	t.Parallel()
	count := 0
	for _, k := range kinds() {
		for where, v := range containers(k.value) {
			if k.alone && where != "alone" {
				continue
			}
			for _, c := range codec.Builtin() {
				if k.name == "zero time" && where == "pointer" && c == codec.CBOR {
					continue // becomes nil, as its documentation says
				}
				count++
				name := fmt.Sprintf("%s, %s, %s", k.name, where, c.ContentType())
				err := trip(c, v)
				switch sent := !errors.Is(err, errRefused); {
				case err != nil && sent:
					t.Errorf("%s: %v", name, err)
				case c != codec.JSON && c != codec.CBOR:
				case sent != k.in.by(c) && !ignoresMethod(c, where, v):
					t.Errorf("%s: carried %v, want %v: %v", name, sent, k.in.by(c), err)
				}
			}
		}
	}
	t.Logf("%d trips", count)
}

// ignoresMethod reports whether encoding/json ignores a method with a pointer receiver.
func ignoresMethod(c codec.Codec, where string, v any) bool {
	if c != codec.JSON || where != "map" {
		return false
	}
	switch v.(type) {
	case map[string]pointerJSON, map[string]big.Int, map[string]big.Rat, map[string]big.Float:
		return true
	}
	return false
}

var errRefused = errors.New("refused")

// trip returns errRefused if Marshal refuses v, and another error if v does not come back.
func trip(c codec.Codec, v any) error {
	data, err := c.Marshal(v)
	if err != nil {
		if !strings.HasPrefix(err.Error(), "codec: ") || len(err.Error()) > 1000 {
			return fmt.Errorf("bad error text: %v", err)
		}
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	dst := reflect.New(reflect.TypeOf(v))
	if err := c.Unmarshal(data, dst.Interface()); err != nil {
		return fmt.Errorf("%.200q cannot be read: %w", data, err)
	}
	if got := dst.Elem().Interface(); !same(v, got) {
		return fmt.Errorf("sent %+v, got %+v, by %.200q", v, got, data)
	}
	return nil
}

func same(a, b any) bool {
	return reflect.DeepEqual(a, b) || equal(reflect.ValueOf(a), reflect.ValueOf(b)) // the first is fast
}

// equal is reflect.DeepEqual, except that messages, JSON and times are compared by their
// meaning, and numbers by their value.
func equal(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() || a.Type() != b.Type() {
		return a.IsValid() == b.IsValid() && !a.IsValid()
	}
	if a.Kind() == reflect.Interface { // before a type is compared by its meaning
		return a.IsNil() == b.IsNil() && equal(a.Elem(), b.Elem())
	}
	if a.CanInterface() {
		if is, known := equalMeaning(a.Interface(), b.Interface()); known {
			return is
		}
	}
	switch a.Kind() {
	case reflect.Pointer:
		return a.IsNil() == b.IsNil() && equal(a.Elem(), b.Elem())
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() || a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !equal(a.Index(i), b.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for key, item := range a.Seq2() {
			if !equal(item, b.MapIndex(key)) {
				return false
			}
		}
	case reflect.Struct:
		for i := range a.NumField() {
			if !equal(a.Field(i), b.Field(i)) {
				return false
			}
		}
	case reflect.String:
		return a.String() == b.String()
	default:
		if !a.CanInterface() {
			return fmt.Sprint(a) == fmt.Sprint(b)
		}
		return reflect.DeepEqual(a.Interface(), b.Interface())
	}
	return true
}

// equalMeaning compares values of the types whose fields do not say what they mean.
func equalMeaning(a, b any) (is, known bool) {
	switch x := a.(type) {
	case proto.Message:
		return proto.Equal(x, b.(proto.Message)), true
	case time.Time:
		_, from := x.Zone()
		_, to := b.(time.Time).Zone()
		return x.Equal(b.(time.Time)) && from == to, true
	case json.RawMessage:
		var p, q any
		err1, err2 := json.Unmarshal(x, &p), json.Unmarshal(b.(json.RawMessage), &q)
		return err1 == nil && err2 == nil && reflect.DeepEqual(p, q) || x == nil && b.(json.RawMessage) == nil, true
	case big.Int:
		y := b.(big.Int)
		return x.Cmp(&y) == 0, true
	case big.Float:
		y := b.(big.Float)
		return x.Cmp(&y) == 0, true
	}
	return false, false
}

// Real events are carried as maps and as structs.
func TestRealWebhooks(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "shared", "data", "github-webhooks.ndjson")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("SKIPPED: %s is absent; with it this test carries 197 real events", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct{ Payload json.RawMessage }
		var asMap map[string]any
		var asStruct githubEvent
		err := errors.Join(json.Unmarshal(lines.Bytes(), &event), json.Unmarshal(event.Payload, &asMap), json.Unmarshal(event.Payload, &asStruct))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []codec.Codec{codec.JSON, codec.CBOR} {
			for _, v := range []any{asMap, asStruct, &asStruct, event.Payload} {
				if err := trip(c, v); err != nil {
					t.Errorf("%s %T: %v", c.ContentType(), v, err)
				}
			}
		}
	}
}

// Protobuf messages have a JSON of their own.
func TestMessagesInJSON(t *testing.T) {
	t.Parallel()
	for _, m := range []proto.Message{
		timestamppb.New(at(0)), durationpb.New(1500 * time.Millisecond), wrapperspb.Int64(1<<53 + 1),
		structpb.NewStringValue("x"), parsed(structpb.NewStruct(map[string]any{"a": []any{nil, 1.5}})),
	} {
		for _, c := range []codec.Codec{codec.JSON, codec.Protobuf} {
			if err := trip(c, m); err != nil {
				t.Errorf("%T: %v", m, err)
			}
		}
	}
	data, err := codec.JSON.Marshal(durationpb.New(1500 * time.Millisecond))
	if err != nil || string(data) != `"1.500s"` {
		t.Errorf("got %s, %v", data, err)
	}
	for _, refused := range []any{(*durationpb.Duration)(nil), &wrapsPointer{Duration: durationpb.New(1)}, []*durationpb.Duration{}, map[string]any{"a": durationpb.New(1)}} {
		if _, err := codec.JSON.Marshal(refused); !isTypeError(err) {
			t.Errorf("%T: %v", refused, err)
		}
		if _, err := codec.CBOR.Marshal(refused); !isTypeError(err) {
			t.Errorf("cbor: %T: %v", refused, err)
		}
	}
	for _, dst := range []any{new(*timestamppb.Timestamp), new(withMessage)} {
		if err := codec.CBOR.Unmarshal([]byte{0xa0}, dst); !isTypeError(err) {
			t.Errorf("cbor into %T: %v", dst, err)
		}
	}
	if err := codec.JSON.Unmarshal([]byte("{}"), new(withMessage)); !isTypeError(err) {
		t.Error(err)
	}
	// A newer sender's fields are ignored, as those of structs are.
	var got *structpb.Struct
	if err := codec.JSON.Unmarshal([]byte(`{"a":1}`), &got); err != nil || got.Fields["a"].GetNumberValue() != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

// The zero time is null in CBOR, whatever its zone. In JSON its zone counts, and a year before
// 1900 has seconds in many zones.
func TestZeroTimeOfOldZone(t *testing.T) {
	t.Parallel()
	zero := time.Time{}.In(meanTime)
	var got time.Time
	data, err := codec.CBOR.Marshal(zero)
	if err == nil {
		err = codec.CBOR.Unmarshal(data, &got)
	}
	if err != nil || !got.IsZero() {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range []codec.Codec{codec.JSON, codec.Text} {
		if data, err := c.Marshal(zero); err == nil || !strings.Contains(err.Error(), "UTC()") {
			t.Errorf("%s: %s, %v", c.ContentType(), data, err)
		}
	}
}

// A number in an interface becomes a float64, so it may not have more digits, wherever it
// comes from. The same value in a type of its own is carried.
func TestDigitsInInterfacesOfJSON(t *testing.T) {
	t.Parallel()
	const odd = 1<<53 + 1
	long := json.Number("9007199254740993")
	for name, v := range map[string]any{
		"int64": int64(odd), "uint64": uint64(math.MaxUint64), "duration": time.Duration(odd), "pointer": new(int64(odd)),
		"number": long, "fraction": json.Number("0.12345678901234567891"), "big.Int": big.NewInt(odd), "raw": json.RawMessage(`{"a":[9007199254740993]}`),
		"list": []int64{odd}, "map": map[string]uint64{"a": odd}, "struct": small{ID: odd}, "embedded": githubUser{ID: new(int64(odd))},
		"struct in struct": struct{ R []small }{[]small{{}, {ID: odd}}},
	} {
		for where, outer := range map[string]any{
			"map": map[string]any{"k": v}, "list": []any{"9", v}, "field": struct{ V any }{v}, "pointer": &struct{ V any }{v}, "any": new(v),
		} {
			if data, err := codec.JSON.Marshal(outer); err == nil || !strings.Contains(err.Error(), "float64") {
				t.Errorf("%s in a %s: %s, %v", name, where, data, err)
			}
		}
		if _, err := codec.JSON.Marshal(v); err != nil {
			t.Errorf("%s alone: %v", name, err)
		}
	}
	for name, v := range map[string]any{
		"exact": int64(1 << 60), "float": 1152921504606847000.0, "fraction": 0.30000000000000004, "zeros": json.Number("1.500"), "negative": -int64(1 << 53),
		"text": "9007199254740993", "escaped": `\"9007199254740993`, "as text": struct {
			ID int64 `json:",string"`
		}{odd}, "exponent": json.Number("1e20"), "big.Rat": big.NewRat(1, odd),
	} {
		if _, err := codec.JSON.Marshal(map[string]any{"k": v, "l": int64(1 << 62)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func isTypeError(err error) bool {
	_, ok := errors.AsType[*codec.TypeError](err)
	return ok
}

// A number in an interface is a number for every reader, and does not change the value.
func TestNumbersStayNumbersInCBOR(t *testing.T) {
	t.Parallel()
	type box struct{ V any }
	in := map[string]any{
		"int": json.Number("-5"), "big": json.Number("123456789012345678901234567890"),
		"uint": json.Number("18446744073709551615"), "list": []any{json.Number("1.50"), box{json.Number("1e3")}, &box{map[string]any{"n": json.Number("0")}}},
		"maps": map[int]any{1: json.Number("2")},
	}
	data, err := codec.CBOR.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if in["int"] != json.Number("-5") || in["list"].([]any)[2].(*box).V.(map[string]any)["n"] != json.Number("0") {
		t.Errorf("the value was changed: %v", in)
	}
	var got struct {
		Int  int64
		Big  *big.Int
		Uint uint64
		List []any
		Maps map[int]int
	}
	if err := codec.CBOR.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(int64(-5), bigInt("123456789012345678901234567890"), uint64(math.MaxUint64),
		[]any{1.5, map[string]any{"V": 1000.0}, map[string]any{"V": map[string]any{"n": int64(0)}}}, map[int]int{1: 2})
	if text := fmt.Sprint(got.Int, got.Big, got.Uint, got.List, got.Maps); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
	for _, bad := range []json.Number{"", "1e400", "0.12345678901234567890123", "x", "1.x", "0x1", "1_0"} {
		if data, err := codec.CBOR.Marshal([]any{bad}); err == nil {
			t.Errorf("%s: %x", bad, data)
		}
	}
}

// What is known of a type is computed once: messages cost no allocation more.
func TestKnownTypesCostNoAllocation(t *testing.T) {
	v := small{7, "widget", 12.5}
	var boxed any = &v
	ours := testing.AllocsPerRun(100, func() { _, _ = codec.JSON.Marshal(boxed) })
	theirs := testing.AllocsPerRun(100, func() { _, _ = json.Marshal(boxed) })
	if ours > theirs {
		t.Errorf("Marshal: %v allocations, encoding/json %v", ours, theirs)
	}
	data := []byte(`{"id":7}`)
	ours = testing.AllocsPerRun(100, func() { _ = codec.JSON.Unmarshal(data, boxed) })
	theirs = testing.AllocsPerRun(100, func() { _ = json.Unmarshal(data, boxed) })
	if ours > theirs {
		t.Errorf("Unmarshal: %v allocations, encoding/json %v", ours, theirs)
	}
	tree := map[string]any{"a": "b", "c": []any{1.5, nil, true}}
	ours = testing.AllocsPerRun(100, func() { _, _ = codec.JSON.Marshal(tree) })
	theirs = testing.AllocsPerRun(100, func() { _, _ = json.Marshal(tree) })
	if ours > theirs {
		t.Errorf("Marshal of a map: %v allocations, encoding/json %v", ours, theirs)
	}
}

// What cannot be sent is named by where it is.
func TestErrorsNameThePart(t *testing.T) {
	t.Parallel()
	type inner struct {
		Any   any
		Times []time.Time
		Text  string
	}
	type outer struct {
		Items []inner
		ByKey map[string]*inner
	}
	type refused struct {
		Outer []struct {
			Done map[string]struct{ Part sync.Mutex }
		}
	}
	odd := time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("odd", 61))
	for name, tc := range map[string]struct {
		codec codec.Codec
		value any
		want  string
	}{
		"bytes in a field":   {codec.JSON, outer{Items: []inner{{}, {Any: []byte("x")}}}, "in Items[1].Any: bytes in an interface"},
		"a time in a map":    {codec.CBOR, &outer{ByKey: map[string]*inner{"k": {Times: []time.Time{odd}}}}, `in ByKey["k"].Times[0]: the time`},
		"a part of any":      {codec.JSON, outer{Items: []inner{{Any: map[string]any{"a": []any{1, []byte("x")}}}}}, `in Items[0].Any["a"][1]: bytes`},
		"no UTF-8":           {codec.JSON, outer{ByKey: map[string]*inner{"k": {Text: "a\xff"}}}, `in ByKey["k"].Text: a string is not valid UTF-8`},
		"a number":           {codec.JSON, outer{Items: []inner{{Any: int64(1<<60 + 1)}}}, "in Items[0].Any: the number 1152921504606846977"},
		"a type":             {codec.JSON, refused{}, "sync.Mutex in codec_test.refused (Outer[].Done[].Part)"},
		"a type in an any":   {codec.JSON, outer{Items: []inner{{Any: refused{}}}}, "sync.Mutex in codec_test.outer (Items[0].Any.Outer[].Done[].Part)"},
		"a type, to be read": {codec.CBOR, refused{}, "sync.Mutex in codec_test.refused (Outer[].Done[].Part)"},
		"the value itself":   {codec.JSON, map[string]any{"a": []byte("x")}, `in ["a"]: bytes`},
	} {
		if _, err := tc.codec.Marshal(tc.value); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	deep := any([]byte("x"))
	for range 5000 {
		deep = map[string]any{"a rather long key": deep}
	}
	if _, err := codec.JSON.Marshal(deep); err == nil || len(err.Error()) > 1000 {
		t.Errorf("a deep value: %.2000v", err)
	}
}
