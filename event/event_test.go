package event_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"testing"
	"time"

	"github.com/omnibus-go/bus/codec"
	"github.com/omnibus-go/bus/event"
)

// An event is JSON with names like those of package stats, and can be sent with any codec for
// structs.
func TestEventAsJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 12, 30, 0, 5, time.UTC)
	e := event.Event{Kind: event.Retry, Time: at, Subject: "shop.order", Stream: "SHOP", Durable: "bill", Sequence: 7,
		Attempt: 2, Dropped: 3, Err: fmt.Errorf("call: %w", errors.New("no \"bank\""))}
	data, err := json.Marshal(map[string]any{"e": e, "p": &e})
	if err != nil {
		t.Fatal(err)
	}
	one := `{"kind":"retry","time":"2026-11-26T12:30:00.000000005Z","subject":"shop.order","stream":"SHOP","durable":"bill",` +
		`"sequence":7,"attempt":2,"dropped":3,"error":"call: no \"bank\""}`
	if want := `{"e":` + one + `,"p":` + one + `}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	for _, c := range []codec.Codec{codec.JSON, codec.CBOR} {
		for _, sent := range []event.Event{e, {Kind: event.Disconnected, Time: at}} {
			var got event.Event
			data, err := c.Marshal(sent)
			if err == nil {
				err = c.Unmarshal(data, &got)
			}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(sent) {
				t.Errorf("%s: got %v, %v, want %v", c.ContentType(), got, err, sent)
			}
		}
	}
	var bad event.Event
	if err := json.Unmarshal([]byte(`{"sequence":-1}`), &bad); err == nil {
		t.Error("a negative sequence was read")
	}
}

// Each field but Err has a name in lower case with underscores.
func TestEventHasNames(t *testing.T) {
	t.Parallel()
	names := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for field := range reflect.TypeFor[event.Event]().Fields() {
		if tag := field.Tag.Get("json"); !names.MatchString(tag) && field.Name != "Err" {
			t.Errorf("%s has the name %q", field.Name, tag)
		}
	}
}
