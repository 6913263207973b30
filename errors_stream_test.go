package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// The server's refusals are typed, and change nothing.
func TestStreamRefusedByTheServer(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	declare(t, b, bus.StreamConfig{Name: "OTHER", Subjects: []string{"other.>"}})
	declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxAge: time.Minute})
	want := configOf(t, b, "S")
	raw := func(subjects ...string) bus.StreamConfig {
		return bus.StreamConfig{Name: "N", Raw: func(c *jetstream.StreamConfig) { c.Subjects = subjects }}
	}
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		op     string
		text   []string
	}{
		{"overlaps another stream", bus.StreamConfig{Name: "N", Subjects: []string{"a", "other.*"}}, "create", []string{"overlap"}},
		{"is inside another stream", bus.StreamConfig{Name: "N", Subjects: []string{"other.a.b"}}, "create", []string{"overlap"}},
		{"extended over another stream", bus.StreamConfig{Name: "S", Subjects: []string{"s", "other.b"}}, "update", []string{"overlap"}},
		{"overlaps itself", raw("n.*", "n.a"), "create", []string{"overlap"}},
		{"the same twice", raw("n", "n"), "create", nil},
		{"the server's own subjects", raw("$JS.API.>"), "create", []string{"name those of the program"}},
		{"everything", raw(">"), "create", []string{"name those of the program"}},
		{"copies without a cluster", bus.StreamConfig{Name: "N", Replicas: 3}, "create", []string{"replicas"}},
		{"extended by copies", bus.StreamConfig{Name: "S", Replicas: 3}, "update", []string{"replicas"}},
		{"more than the memory", bus.StreamConfig{Name: "N", MaxBytes: 1 << 40}, "create", []string{"memory"}},
		{"extended beyond the memory", bus.StreamConfig{Name: "LIMITED", MaxBytes: 1 << 40}, "update", []string{"memory"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			declare(t, b, bus.StreamConfig{Name: "LIMITED", MaxBytes: 1000})
			st, err := b.Stream(t.Context(), tc.config)
			e := asError[*bus.StreamError](t, err, append(tc.text, tc.config.Name, tc.op)...)
			if st != nil || e.Stream != tc.config.Name || e.Op != tc.op {
				t.Errorf("got %v, %+v", st, e)
			}
			if _, ok := errors.AsType[*jetstream.APIError](err); !ok {
				t.Errorf("the server's answer is not in the chain of %v", err)
			}
			if got := configOf(t, b, "S"); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			_, err = b.LookupStream(t.Context(), "N")
			isError(t, err, bus.ErrStreamNotFound)
		})
	}
}

// The server's number of a refusal is there, whichever call it refuses.
func TestStreamErrorNumbers(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	_, published := bus.PublishTo(t.Context(), st, "S", 1, bus.WithHeader("Nats-Expected-Stream", "OTHER"))
	_, looked := b.LookupStream(t.Context(), "NONE")
	_, overlaps := b.Stream(t.Context(), bus.StreamConfig{Name: "T", Subjects: []string{"S"}})
	hasText(t, overlaps, "subjects that do not overlap with its")
	_, copies := b.Stream(t.Context(), bus.StreamConfig{Name: "T", Replicas: 3})
	hasText(t, copies, "leave Replicas out")
	for _, tc := range []struct {
		err       error
		code, own int
	}{{published, 400, 10060}, {looked, 404, 10059}, {overlaps, 400, 10065}, {copies, 500, 10074}} {
		if e := asError[*bus.StreamError](t, tc.err); e.Code != tc.code || e.ErrorCode != tc.own {
			t.Errorf("got %d/%d of %v, want %d/%d", e.Code, e.ErrorCode, e, tc.code, tc.own)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	must(t, b.JetStream().DeleteStream(t.Context(), "S"))
	must(t, second(bus.Subscribe(b, "S", func(context.Context, *bus.Msg[int]) error { cancel(); return nil })))
	_, err := bus.PublishTo(ctx, st, "S", 1, bus.MsgID("id-1"))
	isError(t, err, bus.ErrUnknownOutcome, "repeated safely with the same MsgID", `"id-1"`)
	if e := asError[*bus.StreamError](t, err); e.Code != 0 || e.ErrorCode != 0 {
		t.Errorf("got %+v", e)
	}
}

// oldServer answers for the streams as a server of before 2.12 does: what it does not
// know it leaves out. One that is strict refuses it.
type oldServer struct {
	level  int  // its API level; below 1 it says nothing of it
	strict bool // it refuses what it does not know
	drops  []string
	stream map[string]any // the configuration that it has
}

// connectToOld returns a bus on a server whose streams are those of s.
func connectToOld(t *testing.T, s *oldServer) *bus.Bus {
	t.Helper()
	plain := external(t, func(o *server.Options) { o.JetStream = false })
	nc := dialRaw(t, plain.ClientURL())
	_, err := nc.Subscribe("$JS.API.>", func(m *nats.Msg) { _ = m.Respond(s.answer(m)) })
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, nc.FlushWithContext(ctx))
	b, err := bus.Connect(t.Context(), plain.ClientURL(), bus.WithLogger(silent()))
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func (s *oldServer) answer(m *nats.Msg) []byte {
	text := func(v any) []byte { b, _ := json.Marshal(v); return b }
	fails := func(code, number int, description string) []byte {
		return text(map[string]any{"error": map[string]any{"code": code, "err_code": number, "description": description}})
	}
	switch op := strings.TrimPrefix(m.Subject, "$JS.API."); {
	case op == "INFO":
		return text(map[string]any{"api": map[string]any{"level": s.level}})
	case op == "STREAM.INFO.S" && s.stream == nil:
		return fails(404, 10059, "stream not found")
	case op != "STREAM.INFO.S":
		config := make(map[string]any)
		_ = json.Unmarshal(m.Data, &config)
		for _, name := range s.drops {
			if _, sent := config[name]; sent && s.strict {
				return fails(400, 10025, `invalid JSON: json: unknown field "`+name+`"`)
			}
			delete(config, name)
		}
		s.stream = config
	}
	return text(map[string]any{"config": s.stream, "created": time.Now(), "state": map[string]any{}})
}

// What the server does not know is told by name, and not left out in silence.
func TestStreamOnAnOldServer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		server oldServer
		config bus.StreamConfig
		want   bus.UnsupportedError
		text   string
	}{
		{"schedules, by its level", oldServer{level: 1}, bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true }},
			bus.UnsupportedError{Fields: []string{"AllowMsgSchedules"}, Level: 2, Have: 1}, "it has API level 1, they need 2"},
		{"markers, where it says nothing of levels", oldServer{}, bus.StreamConfig{Raw: func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Minute }},
			bus.UnsupportedError{Fields: []string{"SubjectDeleteMarkerTTL"}, Level: 1}, "nothing was changed"},
		{"strict", oldServer{strict: true, drops: []string{"subject_transform"}}, bus.StreamConfig{Raw: transformTo("x.>")},
			bus.UnsupportedError{Fields: []string{"subject_transform"}}, "does not know subject_transform: use a newer server"},
		{"left out", oldServer{drops: []string{"republish"}}, bus.StreamConfig{Raw: republishTo("x.>")},
			bus.UnsupportedError{Fields: []string{"Republish"}, Changed: true}, "it took the rest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := connectToOld(t, &tc.server)
			tc.config.Name, tc.config.Subjects = "S", []string{"s.>"}
			check := func() {
				t.Helper()
				_, err := b.Stream(t.Context(), tc.config)
				e := asError[*bus.UnsupportedError](t, err, `stream "S"`, tc.text)
				if e.Stream != "S" || strings.Join(e.Fields, " ") != strings.Join(tc.want.Fields, " ") || e.Level != tc.want.Level ||
					e.Have != tc.want.Have || e.Changed != tc.want.Changed || (errors.Unwrap(e) != nil) != tc.server.strict {
					t.Errorf("got %+v, want %+v", e, tc.want)
				}
			}
			check()
			if tc.want.Changed != (tc.server.stream != nil) {
				t.Errorf("it has %v", tc.server.stream)
			}
			tc.server.stream = map[string]any{"name": "S", "subjects": []string{"s.>"}, "storage": "file", "num_replicas": 1}
			check() // on a stream that is there
			st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.>", "more"}})
			if tc.config.Subjects = nil; tc.want.Level > 0 {
				asError[*bus.UnsupportedError](t, second(st.Plan(t.Context(), tc.config)))
			}
		})
	}
}
