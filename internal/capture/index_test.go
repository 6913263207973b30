package capture_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/capture"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/testserver"
)

func info(name string, noAck bool, subjects ...string) *jetstream.StreamInfo {
	return &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: name, NoAck: noAck, Subjects: subjects}}
}

// found is the name of the stream that captures a subject, or "".
func found(x *capture.Index, subj string) string {
	if s := x.Find(subj); s != nil {
		return s.Name
	}
	return ""
}

func TestIndexFindsTheStream(t *testing.T) {
	t.Parallel()
	x := capture.New(&core.Core{})
	if s := x.Find("a.b"); s != nil {
		t.Errorf("an empty index has %v", s)
	}
	if x.Remove("A") {
		t.Error("it removed a stream that it did not know")
	}
	x.Set(info("A", false, "a.*", "b"))
	x.Set(info("B", true, "c.>"))
	for subj, want := range map[string]string{"a.b": "A", "b": "A", "a.b.c": "", "c.d.e": "B", "c": ""} {
		if got := found(x, subj); got != want {
			t.Errorf("%s: got %q, want %q", subj, got, want)
		}
	}
	if x.Find("a.b").NoAck || !x.Find("c.d").NoAck {
		t.Error("NoAck is wrong")
	}
	x.Set(info("A", false, "x"))
	if got := found(x, "a.b") + found(x, "x"); got != "A" {
		t.Errorf("after a change: %q", got)
	}
	if !x.Remove("A") || x.Remove("A") || found(x, "x") != "" || found(x, "c.d") != "B" {
		t.Error("Remove removed too little or too much")
	}
}

// Of the many subjects that may come each is reported once, and not all.
func TestIndexReports(t *testing.T) {
	t.Parallel()
	x := capture.New(&core.Core{})
	if x.Reported("s") || !x.RegisterReport("s") || x.RegisterReport("s") || !x.Reported("s") {
		t.Error("a subject is not reported exactly once")
	}
	for i := range 1023 {
		if subj := fmt.Sprint(i); x.Reported(subj) || !x.RegisterReport(subj) {
			t.Fatalf("subject %d is not to be reported", i)
		}
	}
	if !x.Reported("another") {
		t.Error("there is no limit")
	}
}

func TestIndexConcurrently(t *testing.T) {
	t.Parallel()
	x := capture.New(&core.Core{})
	x.Set(info("ALWAYS", false, "always"))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := fmt.Sprint("S", i)
			for range 100 {
				x.Set(info(name, false, name))
				if found(x, name) != name || found(x, "always") != "ALWAYS" {
					t.Error("a stream is missing")
				}
				x.Remove(name)
			}
		})
	}
	wg.Wait()
}

// Confirm asks the server, and believes the index where the server cannot be asked.
func TestConfirm(t *testing.T) {
	t.Parallel()
	l := testserver.New(t, testserver.WithJetStream).Link(t)
	js, err := jetstream.New(l.Conn())
	if err != nil {
		t.Fatal(err)
	}
	x := capture.New(&core.Core{Link: l, JetStream: js, Timeout: 10 * time.Second})
	confirmed := func(subj string) string {
		if s := x.Confirm(t.Context(), subj); s != nil {
			return s.Name
		}
		return ""
	}
	declare := func(name string, subjects ...string) {
		t.Helper()
		_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: subjects, Storage: jetstream.MemoryStorage})
		if err != nil {
			t.Fatal(err)
		}
	}
	declare("A", "a")
	if got := confirmed("a"); got != "" {
		t.Errorf("an unknown stream is found: %q", got)
	}
	x.Set(info("A", false, "a"))
	x.Set(info("B", false, "b"))
	if got := confirmed("a"); got != "A" {
		t.Errorf("got %q", got)
	}
	if got := confirmed("b"); got != "" || x.Find("b") != nil {
		t.Errorf("a stream that does not exist is found: %q", got)
	}
	declare("A", "c")
	declare("B", "a")
	if got := confirmed("a"); got != "" || found(x, "c") != "A" {
		t.Errorf("after the subject has moved: %q, %q", got, found(x, "c"))
	}
	x.Set(info("B", false, "a"))
	l.Close()
	if got := confirmed("a"); got != "B" {
		t.Errorf("without a connection: %q", got)
	}
}
