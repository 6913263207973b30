package storedir_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/omnibus-go/bus/internal/storedir"
)

// An identity that is accepted has names that the server can use, and is the same when it is
// written and read again. Each other text is a typed error that is short.
func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{
		`{"format":1,"id":"a","server_name":"bus-x","domain":"bus-y","created":"2026-01-02T03:04:05Z"}`,
		`{"format":1,"id":"a","server_name":"s","domain":"d","later":{"x":[1]}}`,
		`{"format":2,"id":"a","server_name":"s","domain":"d","moved":{"id":"x","target":"nats://h:4222","streams":["S"]}}`,
		`{"format":3,"id":"a","server_name":"s","domain":"d","home":{"id":"x","target":"nats://h:4222","streams":["S"]}}`,
		`{"format":3,"id":"a","server_name":"s","domain":"d","home":{"id":"../x"}}`,
		`{"format":2}`, `{"format":3}`, `{"format":4}`, `{"format":99999999999999999999}`, `{"Format":1,"format":2}`,
		`{"format":1,"id":"a","server_name":"a b","domain":"a.b"}`, `[]`, `null`, ``, `{"format":1,"created":"x"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := storedir.ParseIdentity(raw)
		if err != nil {
			checkIdentityError(t, err)
			return
		}
		if id.Format < 1 || id.Format > storedir.FormatHome || id.ID == "" || strings.ContainsAny(id.Domain, " .*>\r\n") || strings.ContainsFunc(id.ServerName, unicode.IsSpace) {
			t.Fatalf("accepted: %+v", id)
		}
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", id, err)
		}
		again, err := storedir.ParseIdentity(text)
		if created := again.Created; err != nil || !created.Equal(id.Created) {
			t.Fatalf("%+v came back as %+v, %v", id, again, err)
		}
	})
}

func checkIdentityError(t *testing.T, err error) {
	_, corrupt := errors.AsType[*storedir.CorruptError](err)
	format, newer := errors.AsType[*storedir.FormatError](err)
	if corrupt == newer || newer && format.Found <= storedir.FormatHome || len(err.Error()) > 1000 {
		t.Fatalf("the error is %T %.2000v", err, err)
	}
}

// Whatever OWNER has, the error text for a locked directory is one line that can be printed.
func FuzzParseOwner(f *testing.F) {
	for _, s := range []string{
		`{"pid":12,"host":"h","program":"p","bus":"bus-x","process":"X","since":"2026-01-02T03:04:05Z"}`,
		`{"pid":12}`, `{"pid":-1}`, `{"pid":1,"program":"a\nb"}`, `{"pid":1,"host":"\u001b[2J"}`, `{"pid":1e3}`, ``, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := (&storedir.LockedError{Dir: "/d", Owner: storedir.ParseOwner(raw)}).Error()
		if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q", text)
		}
	})
}

// A journal that is accepted is the same when it is written and read again, and the error text
// that it gets into is one line that can be printed.
func FuzzParseMove(f *testing.F) {
	for _, s := range []string{
		`{"id":"x","target":"nats://h:4222","streams":["A","B"],"at":"2026-01-02T03:04:05Z"}`,
		`{}`, `null`, ``, `{"id":"\n"}`, `{"target":"a\u0000"}`, `{"streams":[""]}`, `{"streams":["a b"]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := storedir.ParseMove(raw)
		if err != nil {
			if _, ok := errors.AsType[*storedir.CorruptError](err); !ok || len(err.Error()) > 1000 {
				t.Fatalf("the error is %T %.2000v", err, err)
			}
			return
		}
		if text := (&storedir.MovedError{Dir: "/d", Move: m}).Error(); strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q", text)
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", m, err)
		}
		if again, err := storedir.ParseMove(text); err != nil || again.ID != m.ID || again.Target != m.Target || len(again.Streams) != len(m.Streams) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
