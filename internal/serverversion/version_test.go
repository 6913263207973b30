package serverversion_test

import (
	"errors"
	"testing"

	"github.com/omnibus-go/bus/internal/serverversion"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]serverversion.Version{
		"2.10.29": {Major: 2, Minor: 10, Patch: 29}, "2.9.10": {Major: 2, Minor: 9, Patch: 10}, "v2.14.0-RC.1": {Major: 2, Minor: 14},
		"2.15.0-dev": {Major: 2, Minor: 15}, "2.12.1-preview.2+build-3": {Major: 2, Minor: 12, Patch: 1}, "3.0": {Major: 3},
	} {
		if v, ok := serverversion.Parse(text); !ok || v != want {
			t.Errorf("%s is %v, %v", text, v, ok)
		}
	}
	for _, text := range []string{"", "dev", "2", "2.x.1", "2.1.2.3", "-1.2.3", "2.99999999.0", "2.+1.0"} {
		if v, ok := serverversion.Parse(text); ok {
			t.Errorf("%q is %v", text, v)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		server    string
		supported bool
		has       []bool // TTL, PublishToBatch, Rewind
	}{
		{"1.4.1", false, []bool{false, false, false}},
		{"2.9.25", false, []bool{false, false, false}},
		{"2.10.0", true, []bool{false, false, false}},
		{"2.11.0", true, []bool{true, false, false}},
		{"2.12.0-beta.1", true, []bool{true, true, false}},
		{"2.14.9", true, []bool{true, true, true}},
		{"2.100.0", true, []bool{true, true, true}},
		{"3.0.0", true, []bool{true, true, true}},
		{"unreadable", true, []bool{false, false, false}},
	} {
		s := serverversion.Of(tc.server)
		if err := s.CheckSupported(); (err == nil) != tc.supported {
			t.Errorf("%s: %v", tc.server, err)
		}
		for i, f := range []serverversion.Feature{serverversion.TTL, serverversion.PublishToBatch, serverversion.Rewind} {
			err := s.Check(f)
			if e, refused := errors.AsType[*serverversion.Error](err); refused == tc.has[i] || refused && (e.Server.Text != tc.server || e.Call != f.Call) {
				t.Errorf("%s, %s: %v", tc.server, f.Call, err)
			}
		}
	}
}

// Each feature says what to do without it, and is newer than what is supported.
func TestFeatures(t *testing.T) {
	t.Parallel()
	for _, f := range serverversion.Features {
		if f.Hint == "" || serverversion.Oldest.AtLeast(f.Since) {
			t.Errorf("%+v", f)
		}
		if v, ok := serverversion.OfLevel(f.Level); !ok || v != f.Since {
			t.Errorf("%s: level %d is %v", f.Call, f.Level, v)
		}
	}
}

// Whatever a server calls its version, it counts as a version that can be compared. A version
// that is read comes back when its text is read.
func FuzzVersion(f *testing.F) {
	for _, s := range []string{"2.10.0", "v2.14.0-RC.1", "2.15.0-dev+x", "2", "2.-1.0", "2.70000.1", "a.b.c", "", "2.11.17.1", "+2.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s := serverversion.Of(text); s.Text == "" {
			t.Fatalf("%q has no text", text)
		}
		v, ok := serverversion.Parse(text)
		if !ok {
			return
		}
		if again, ok := serverversion.Parse(v.String()); !ok || again != v || !v.AtLeast(again) {
			t.Fatalf("%q is %v, and that is %v", text, v, again)
		}
	})
}
