package sidestream

import (
	"testing"
	"time"

	"github.com/omnibus-go/bus/internal/wire"
)

// A follower that waits has one short header. It comes back with all that it was.
func TestFollowerHeader(t *testing.T) {
	t.Parallel()
	s, c := open(t)
	f := openFollowers(t, s, true, false)
	d := follower("a", 7)
	d.Stored.Attempt, d.Stored.DeadLetter, d.Header = 3, 12, wire.Header{"X": {"1", "2"}, "Bus-Origin-Follower": {"of the program"}}
	must(t, f.Put(t.Context(), d))
	a := s.Address(7)
	a.Key = KeyToken("a")
	m, err := s.Retries.GetLastMsgForSubject(t.Context(), a.Subject(Later))
	must(t, err)
	if m.Header.Get(headerFollower) == "" || m.Header.Get(headerTime) != "" {
		t.Errorf("the headers are %v", m.Header)
	}
	mustReturn(t, f, "a", sure(7), true)
	m, err = s.Retries.GetLastMsgForSubject(t.Context(), a.Subject(Retry))
	must(t, err)
	got, err := ParseCopy(wire.Header(m.Header), m.Data)
	must(t, err)
	if got.Subject != d.Subject || got.Stream != "S" || got.Sequence != 7 || !got.Time.Equal(d.Stored.Time) || got.Attempts != 2 || got.DeadLetter != 12 || len(got.Header) != 2 || got.Header["Bus-Origin-Follower"][0] != "of the program" || string(got.Data) != "x" {
		t.Errorf("it comes back as %+v", got)
	}
	mustHave(t, c, "S-retry", a.Subject(Retry))
}

// What somebody else has put there is no follower.
func TestFollowerHeaderMistakes(t *testing.T) {
	t.Parallel()
	good := (&Copy{Subject: "s.a", Time: time.Unix(1, 5)})
	out := good.Message("x")
	good.shorten(&out)
	a := Address{Stream: "S", Sequence: 7}
	if got, err := parseFollower(out.Header, nil, a); err != nil || got.Subject != "s.a" || got.Sequence != 7 || !got.Time.Equal(good.Time) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, value := range []string{"x", "1 2", "- 0 s.a", "1 x s.a", "-1 0 s.a", "1 0 "} {
		if got, err := parseFollower(wire.Header{headerFollower: {value}}, nil, a); err == nil {
			t.Errorf("%q is %+v", value, got)
		}
	}
}
