package bus_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// What cannot be right is refused before the server hears of it, all at once.
func TestBadStreamConfigs(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	api, err := b.Conn().SubscribeSync("$JS.API.>")
	must(t, err)
	for _, tc := range []struct {
		name   string
		config bus.StreamConfig
		want   string // the fields
	}{
		{"no name", bus.StreamConfig{}, "Name"},
		{"dot in the name", bus.StreamConfig{Name: "a.b"}, "Name"},
		{"blank in the name", bus.StreamConfig{Name: "a b"}, "Name"},
		{"wildcard in the name", bus.StreamConfig{Name: "*"}, "Name"},
		{"path in the name", bus.StreamConfig{Name: "../x"}, "Name"},
		{"line break in the name", bus.StreamConfig{Name: "S\n"}, "Name"},
		{"name not ASCII", bus.StreamConfig{Name: "größe"}, "Name"},
		{"name too long", bus.StreamConfig{Name: strings.Repeat("x", 201)}, "Name"},
		{"empty subject", bus.StreamConfig{Name: "S", Subjects: []string{""}}, "Subjects"},
		{"empty token", bus.StreamConfig{Name: "S", Subjects: []string{"a..b"}}, "Subjects"},
		{"blank in the subject", bus.StreamConfig{Name: "S", Subjects: []string{"a b"}}, "Subjects"},
		{"tail in the middle", bus.StreamConfig{Name: "S", Subjects: []string{"ok", "a.>.b"}}, "Subjects"},
		{"overlapping subjects", bus.StreamConfig{Name: "S", Subjects: []string{"a.*", "b", "a.b"}}, "Subjects"},
		{"a subject twice", bus.StreamConfig{Name: "S", Subjects: []string{"a", "a"}}, "Subjects"},
		{"all subjects", bus.StreamConfig{Name: "S", Subjects: []string{">"}}, "Subjects"},
		{"those of the server", bus.StreamConfig{Name: "S", Subjects: []string{"$JS.>", "$SYS.*"}}, "Subjects Subjects"},
		{"bad token", bus.StreamConfig{Name: "S", Subjects: bus.Subjects(bus.Subject[int]("a.*").At("x.y"))}, "Subjects"},
		{"unknown storage", bus.StreamConfig{Name: "S", Storage: 3}, "Storage"},
		{"negative storage", bus.StreamConfig{Name: "S", Storage: -1}, "Storage"},
		{"negative copies", bus.StreamConfig{Name: "S", Replicas: -1}, "Replicas"},
		{"too many copies", bus.StreamConfig{Name: "S", Replicas: 6}, "Replicas"},
		{"negative number", bus.StreamConfig{Name: "S", MaxMsgs: -2}, "MaxMsgs"},
		{"negative size", bus.StreamConfig{Name: "S", MaxBytes: -2}, "MaxBytes"},
		{"negative age", bus.StreamConfig{Name: "S", MaxAge: -2}, "MaxAge"},
		{"age without a unit", bus.StreamConfig{Name: "S", MaxAge: 60}, "MaxAge"},
		{"negative window", bus.StreamConfig{Name: "S", Duplicates: -1}, "Duplicates"},
		{"window without a unit", bus.StreamConfig{Name: "S", Duplicates: 60}, "Duplicates"},
		{"negative revision", bus.StreamConfig{Name: "S", Revision: -1}, "Revision"},
		{"unknown retention", bus.StreamConfig{Name: "S", Retention: 4}, "Retention"},
		{"unknown way to discard", bus.StreamConfig{Name: "S", Discard: -1}, "Discard"},
		{"negative number on a subject", bus.StreamConfig{Name: "S", MaxMsgsPerSubject: -2}, "MaxMsgsPerSubject"},
		{"negative size of a message", bus.StreamConfig{Name: "S", MaxMsgSize: -2}, "MaxMsgSize"},
		{"the server's metadata", bus.StreamConfig{Name: "S", Metadata: map[string]string{"_nats.x": "1"}}, "Metadata"},
		{"the library's metadata", bus.StreamConfig{Name: "S", Metadata: map[string]string{"_omnibus.revision": "1"}}, "Metadata"},
		{"disk, where there is none", bus.StreamConfig{Name: "S", Storage: bus.FileStorage}, "Storage"},
		{"disk, and more", bus.StreamConfig{Name: "S", Storage: bus.FileStorage, MaxMsgs: -2}, "MaxMsgs Storage"},
		{"everything", bus.StreamConfig{Name: "", Subjects: []string{"", "ok", "a b"}, Storage: 9, Replicas: 9, MaxMsgs: -2, MaxBytes: -2, MaxAge: 1, Duplicates: 1},
			"Name Subjects Subjects Storage Replicas MaxMsgs MaxBytes MaxAge Duplicates"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := b.Stream(t.Context(), tc.config)
			if got := fieldsOf(t, err); got != tc.want {
				t.Errorf("it is about %s, want %s: %v", got, tc.want, err)
			}
		})
	}
	for _, name := range []string{"", "a.b", "a b", "*", strings.Repeat("x", 201)} {
		_, err := b.LookupStream(t.Context(), name)
		asError[*bus.OptionError](t, err, "LookupStream name", "200 letters, digits")
	}
	must(t, b.Flush(t.Context()))
	if n, _, err := api.Pending(); n != 0 {
		t.Errorf("the server was asked %d times (%v)", n, err)
	}
}

// A stream cannot refuse messages at a limit that neither its configuration nor the server has.
func TestDiscardWithoutALimit(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	c := bus.StreamConfig{Name: "S", Discard: bus.DiscardNewPerSubject}
	asError[*bus.OptionError](t, second(b.Stream(t.Context(), c)), "StreamConfig.Discard(DiscardNewPerSubject)", "needs a MaxMsgsPerSubject")
	declare(t, b, bus.StreamConfig{Name: "S", MaxMsgsPerSubject: 1})
	declare(t, b, c)
}

// fieldsOf are the fields that the errors joined to err are about.
func fieldsOf(t *testing.T, err error) string {
	t.Helper()
	var about []string
	for _, e := range parts(err) {
		if _, ok := errors.AsType[*bus.SubjectError](e); ok {
			about = append(about, "Subjects")
			continue
		}
		o := asError[*bus.OptionError](t, e)
		name, ok := strings.CutPrefix(o.Option, "StreamConfig.")
		if !ok || o.Reason == "" {
			t.Errorf("got %+v", o)
		}
		about = append(about, name)
	}
	return strings.Join(about, " ")
}

// parts are the errors that were joined to err.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}
