package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-github/v74/github"

	"github.com/omnibus-go/bus/codec"
)

// TestRealTypes sends real webhook events through the codecs, in the types of go-github and as
// CloudEvents. A codec carries a value, or refuses it. The library has no such dependency, so the
// test is here.
func TestRealTypes(t *testing.T) {
	t.Parallel()
	values := realEvents(t)
	for _, c := range []codec.Codec{codec.JSON, codec.CBOR} {
		carried, refused := 0, make(map[string]int)
		for _, v := range values {
			data, err := c.Marshal(v)
			if err != nil {
				refused[err.Error()]++
				continue
			}
			back := reflect.New(reflect.TypeOf(v))
			if err := c.Unmarshal(data, back.Interface()); err != nil {
				t.Errorf("%s: %T cannot be read: %v", c.ContentType(), v, err)
				continue
			}
			if before, after := parsed(t, v), parsed(t, back.Interface()); !reflect.DeepEqual(before, after) {
				t.Errorf("%s: %T became\n%.500v, it was\n%.500v", c.ContentType(), v, after, before)
				continue
			}
			carried++
		}
		t.Logf("%s: %d of %d values were carried, refused: %v", c.ContentType(), carried, len(values), refused)
		if carried != len(values) {
			t.Error("not all were carried")
		}
	}
}

// parsed returns what encoding/json writes of v, without the order of keys: the data of a CloudEvent
// is bytes of JSON, and CBOR has its values.
func parsed(t *testing.T, v any) (tree any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// realEvents reads the real events that go-github knows, each as its type and as a CloudEvent.
// Where they are absent the test is skipped.
func realEvents(t *testing.T) (values []any) {
	t.Helper()
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
	typed := 0
	for lines.Scan() {
		var e struct {
			Event   string
			Payload json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if v, err := github.ParseWebHook(e.Event, e.Payload); err == nil { // it does not know all events
			values = append(values, v)
			typed++
		}
		ce := cloudevents.New()
		ce.SetID("1")
		ce.SetType("com.github." + e.Event)
		ce.SetSource("https://github.com")
		ce.SetTime(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
		if err := ce.SetData(cloudevents.ApplicationJSON, e.Payload); err != nil {
			t.Fatal(err)
		}
		values = append(values, ce, &ce)
	}
	if err := lines.Err(); err != nil || typed < 150 {
		t.Fatalf("%d events have a type of go-github: %v", typed, err)
	}
	return values
}
