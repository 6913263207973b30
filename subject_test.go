package bus_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

const (
	placed   bus.Subject[order]       = "shop.orders.*.placed.v1"
	anything bus.Subject[order]       = "shop.*.>"
	getQuote bus.Endpoint[int, order] = "shop.quotes.*.get"
)

func TestSubjectAt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want string }{
		{placed.At("eu").String(), "shop.orders.eu.placed.v1"},
		{anything.At("a", "b").String(), "shop.a.b"},
		{anything.At("a", "b", "c", "d").String(), "shop.a.b.c.d"},
		{bus.Subject[int]("literal").At().String(), "literal"},
		{bus.Subject[int](">").At("a", "b").String(), "a.b"},
		{bus.Subject[int]("*.*").At("größe", "日本").String(), "größe.日本"},
		{bus.Subject[int]("a.*").At("$x-_:/#@!").String(), "a.$x-_:/#@!"},
		{getQuote.At("de").String(), "shop.quotes.de.get"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
		if err := bus.Subject[int](tc.got).Validate(); err != nil {
			t.Errorf("%q: %v", tc.got, err)
		}
	}
}

// uses are all the ways to use a subject, as functions that must refuse a bad one.
func uses(t *testing.T, b *bus.Bus) map[string]func(bus.Subject[int]) error {
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: "S", Subjects: []string{"stored.>"}})
	must(t, err)
	ctx := t.Context()
	respond := func(context.Context, *bus.Msg[int]) (int, error) { return 0, nil }
	return map[string]func(bus.Subject[int]) error{
		"Validate":     func(s bus.Subject[int]) error { return s.Validate() },
		"Publish":      func(s bus.Subject[int]) error { return bus.Publish(ctx, b, s, 1) },
		"PublishBatch": func(s bus.Subject[int]) error { return bus.PublishBatch(ctx, b, s, []int{1}) },
		"PublishAsync": func(s bus.Subject[int]) error { return bus.PublishAsync(ctx, b, s, 1) },
		"PublishTo":    func(s bus.Subject[int]) error { _, err := bus.PublishTo(ctx, st, s, 1); return err },
		"Subscribe":    func(s bus.Subject[int]) error { _, err := bus.Subscribe(b, s, ignore[int]); return err },
		"Bus.Subscribe": func(s bus.Subject[int]) error {
			var m bus.Mux
			bus.Handle(&m, "a", ignore[int])
			_, err := b.Subscribe(string(s), &m)
			return err
		},
		"Handle": func(s bus.Subject[int]) error {
			var m bus.Mux
			bus.Handle(&m, s, ignore[int])
			_, err := b.Subscribe(">", &m)
			return err
		},
		"Request": func(s bus.Subject[int]) error {
			_, err := bus.Request[int](ctx, b, bus.Endpoint[int, int](s), 1)
			return err
		},
		"Respond": func(s bus.Subject[int]) error {
			_, err := bus.Respond(b, bus.Endpoint[int, int](s), respond)
			return err
		},
		"Consume": func(s bus.Subject[int]) error {
			_, err := bus.Consume(ctx, st, "c", s, ignore[int])
			return err
		},
		"Stream": func(s bus.Subject[int]) error {
			_, err := b.Stream(ctx, bus.StreamConfig{Name: "T", Subjects: bus.Subjects(s)})
			return err
		},
		"WithCodecFor": func(s bus.Subject[int]) error {
			_, err := bus.New(bus.WithCodecFor(string(s), jsonCodec))
			if o, ok := errors.AsType[*bus.OptionError](err); ok {
				return &bus.SubjectError{Subject: strings.Trim(o.Value, `"`), Reason: o.Reason}
			}
			return err
		},
	}
}

// A bad token makes a subject that nothing accepts: it can add neither a level
// nor a wildcard, whatever a user's input holds.
func TestBadTokensAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	everything, err := b.Conn().SubscribeSync("stored.>")
	must(t, err)
	const pattern bus.Subject[int] = "stored.*.x"
	all := uses(t, b)
	for _, tc := range []struct {
		name, token string
		text        []string
	}{
		{"empty", "", []string{"token 1", "is empty"}},
		{"dot", "a.b", []string{`"a.b"`, "dot", "level"}},
		{"star", "*", []string{`"*"`, "wildcard", "encode"}},
		{"star inside", "a*", []string{`"a*"`, "wildcard"}},
		{"tail", ">", []string{`">"`, "wildcard"}},
		{"blank", "a b", []string{`"a b"`, "blank"}},
		{"tab", "a\tb", []string{"U+0009"}},
		{"line break", "a\r\nPUB x 0", []string{"U+000D"}},
		{"nul", "a\x00b", []string{"U+0000"}},
		{"delete", "a\x7f", []string{"U+007F"}},
		{"wide blank", "a\u3000b", []string{"U+3000"}},
		{"not UTF-8", "a\xff", []string{"UTF-8"}},
		{"endless", strings.Repeat("a", 1<<20), []string{"limit"}},
	} {
		s := pattern.At(tc.token)
		for name, use := range all {
			err := use(s)
			e := asError[*bus.SubjectError](t, err, tc.text...)
			if e.Subject != string(pattern) && name != "WithCodecFor" {
				t.Errorf("%s, %s: the error is about %q, want %q", name, tc.name, e.Subject, pattern)
			}
			if text := err.Error(); strings.ContainsAny(text, "\x00\r\xff") || len(text) > 600 {
				t.Errorf("%s, %s: the text is not fit for a log: %.700q", name, tc.name, text)
			}
		}
	}
	for _, tokens := range [][]string{{}, {"a", "b"}} {
		for name, use := range all {
			if e := asError[*bus.SubjectError](t, use(pattern.At(tokens...)), "needs 1"); name != "WithCodecFor" && e.Hint == "" {
				t.Errorf("%s: there is no hint: %v", name, e)
			}
		}
	}
	// The mistake stays even when the subject is filled again or taken apart.
	asError[*bus.SubjectError](t, pattern.At("a.b").At("c").Validate(), "dot")
	asError[*bus.SubjectError](t, bus.Publish(t.Context(), b, "x."+pattern.At("*"), 1))
	asError[*bus.SubjectError](t, getQuote.At("a.b").Validate(), "dot")
	if tokens, ok := pattern.At("a.b").Match("stored.a.b.x"); ok {
		t.Errorf("it matches: %q", tokens)
	}
	must(t, b.Flush(t.Context()))
	if n, _, err := everything.Pending(); n != 0 {
		t.Errorf("%d messages were sent (%v)", n, err)
	}
	if s := b.Stats(); s.Published != 0 || len(s.Subscriptions) != 0 {
		t.Errorf("published %d, %d subscriptions; want none", s.Published, len(s.Subscriptions))
	}
}

func TestMalformedSubjectsAreRefusedEverywhere(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	all := uses(t, b)
	for _, tc := range []struct{ subject, text string }{
		{"", "is empty"},
		{".", "dot"},
		{".a", "starts with a dot"},
		{"a.", "ends with a dot"},
		{"a..b", "empty token"},
		{"a b", "blank"},
		{"a\nb", "U+000A"},
		{"a*", "whole tokens"},
		{"a.>b", "whole tokens"},
		{"a.>.b", "at the end only"},
		{"\x00", "U+0000"},
		{"\x00a\x00b\x00c", ""}, // it only looks like what At makes
		{"a.\xff", "UTF-8"},
		{strings.Repeat("a.", 1<<19) + "a", "limit"},
	} {
		for name, use := range all {
			err := use(bus.Subject[int](tc.subject))
			text := asError[*bus.SubjectError](t, err).Error()
			// Who publishes learns first that a wildcard is not for him.
			if !strings.Contains(text, tc.text) && !strings.Contains(text, "replace each wildcard") {
				t.Errorf("%s of %.40q: %q does not say %q", name, tc.subject, text, tc.text)
			}
			if strings.ContainsAny(text, "\x00\r\n\xff") || len(text) > 700 {
				t.Errorf("%s of %.40q: the text is not fit for a log: %.700q", name, tc.subject, text)
			}
		}
	}
}

// Patterns are for receiving: nothing can be sent to one.
func TestPatternsCannotBePublishedTo(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	all := uses(t, b)
	for _, pattern := range []string{"*", ">", "a.*", "a.>", "*.b"} {
		for _, name := range []string{"Publish", "PublishBatch", "PublishAsync", "PublishTo", "Request"} {
			e := asError[*bus.SubjectError](t, all[name](bus.Subject[int](pattern)), pattern, "wildcard", "replace each wildcard")
			if e.Subject != pattern {
				t.Errorf("%s: the error is about %q, want %q", name, e.Subject, pattern)
			}
		}
	}
}

func TestSubjectMatch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pattern, literal string
		tokens           []string
		ok               bool
	}{
		{"shop.orders.*.placed.v1", "shop.orders.eu.placed.v1", []string{"eu"}, true},
		{"shop.*.>", "shop.a.b.c", []string{"a", "b", "c"}, true},
		{"a.b", "a.b", nil, true},
		{"a.b", "a.c", nil, false},
		{"a.*", "a", nil, false},
		{"a.*", "a.b.c", nil, false},
		{"a.>", "a", nil, false},
		{"a.*", "a.", nil, false},
		{">", "", nil, false},
		{"", "", nil, false},
		{"*", "*", []string{"*"}, true},
	} {
		tokens, ok := bus.Subject[int](tc.pattern).Match(tc.literal)
		if ok != tc.ok || !slices.Equal(tokens, tc.tokens) {
			t.Errorf("%q on %q: got %q, %t, want %q, %t", tc.pattern, tc.literal, tokens, ok, tc.tokens, tc.ok)
		}
	}
	// At and Match are each other's inverse.
	tokens := []string{"eu", "a", "b"}
	if got, ok := anything.Match(anything.At(tokens...).String()); !ok || !slices.Equal(got, tokens) {
		t.Errorf("got %q, %t, want %q", got, ok, tokens)
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	good := bus.Name{Domain: "shop", Service: "orders", Entity: "eu-1", Action: "placed", Version: "v1"}
	s, err := good.Subject()
	must(t, err)
	if s != "shop.orders.eu-1.placed.v1" {
		t.Errorf("got %q", s)
	}
	all := good
	all.Entity = "*"
	if s, err := all.Subject(); err != nil || s != "shop.orders.*.placed.v1" {
		t.Errorf("got %q, %v", s, err)
	}
	for name, tc := range map[string]struct {
		change func(*bus.Name)
		text   string
	}{
		"empty domain":   {func(n *bus.Name) { n.Domain = "" }, "domain"},
		"upper case":     {func(n *bus.Name) { n.Service = "Orders" }, `"orders"`},
		"dot":            {func(n *bus.Name) { n.Entity = "a.b" }, "one level"},
		"tail":           {func(n *bus.Name) { n.Action = ">" }, "wildcard"},
		"not ASCII":      {func(n *bus.Name) { n.Action = "größe" }, "a-z"},
		"no version":     {func(n *bus.Name) { n.Version = "" }, `"v1"`},
		"bare number":    {func(n *bus.Name) { n.Version = "1" }, `"v1"`},
		"version zero":   {func(n *bus.Name) { n.Version = "v0" }, `"v1"`},
		"any version":    {func(n *bus.Name) { n.Version = "*" }, `"v1"`},
		"semver":         {func(n *bus.Name) { n.Version = "v1.2" }, `"v1"`},
		"line break":     {func(n *bus.Name) { n.Domain = "a\nb" }, "a-z"},
		"endless domain": {func(n *bus.Name) { n.Domain = strings.Repeat("a", 1<<20) }, "limit"},
	} {
		n := good
		tc.change(&n)
		s, err := n.Subject()
		asError[*bus.SubjectError](t, err, tc.text)
		if s != "" {
			t.Errorf("%s: got the subject %.80q with the error", name, s)
		}
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	got := bus.Subjects(placed, getQuote, anything.At("a", "b"))
	if want := []string{"shop.orders.*.placed.v1", "shop.quotes.*.get", "shop.a.b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := bus.Subjects(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
