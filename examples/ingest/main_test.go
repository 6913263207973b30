package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/omnibus-go/bus"
)

// webhooks is a file of real events that a user's checkout does not have.
const webhooks = "shared/data/github-webhooks.ndjson"

// findWebhooks returns the path of the file, which lies beside the repository.
func findWebhooks(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for {
		path := filepath.Join(dir, filepath.FromSlash(webhooks))
		if _, err := os.Stat(path); err == nil {
			return path
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skipf("SKIPPED: no %s in any directory above this one, so the run on real events was not tried", webhooks)
		}
		dir = parent
	}
}

// recount is what the summary should say of the file, found out without any of
// the program's code.
func recount(t *testing.T, path string) (byType, byRepository map[string]int, size int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	byType, byRepository = map[string]int{}, map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e map[string]json.RawMessage
		var name string
		var payload struct{ Repository map[string]any }
		for _, err := range []error{json.Unmarshal(lines.Bytes(), &e), json.Unmarshal(e["event"], &name), json.Unmarshal(e["payload"], &payload)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		byType[name]++
		size += len(e["payload"])
		repository, _ := payload.Repository["full_name"].(string)
		byRepository[repository]++
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return byType, byRepository, size
}

// try runs ingest on in and returns what it did and what it reported.
func try(t *testing.T, c config, in io.Reader) (*result, string) {
	t.Helper()
	var reports bytes.Buffer
	r, err := ingest(t.Context(), c, in, 0, newConsole(&reports, false))
	if err != nil {
		t.Fatalf("%v; reports:\n%s", err, &reports)
	}
	return r, reports.String()
}

// check compares the counts of a run. On a machine that stood still for seconds an answer
// may have been late: then the line was sent again, and the stream had it already.
func check(t *testing.T, r *result, lines, stored, duplicates, malformed, handled int) {
	t.Helper()
	if late := r.duplicates - duplicates; late > 0 && late <= stored {
		t.Logf("%d answers were late", late)
		stored, duplicates = stored-late, duplicates+late
	}
	got := [...]int{r.lines, r.stored, r.duplicates, r.malformed, r.events.messages, r.repositories.messages, r.payloads.messages}
	want := [...]int{lines, stored, duplicates, malformed, handled, handled, handled}
	if got != want {
		t.Errorf("lines, stored, duplicates, malformed and handled by each consumer: %v, want %v", got, want)
	}
}

func TestRealEvents(t *testing.T) {
	t.Parallel()
	path := findWebhooks(t)
	byType, byRepository, size := recount(t, path)
	c := config{store: storeDir(t)}
	const all = 197

	t.Run("first run", func(t *testing.T) {
		r, reports := try(t, c, openFile(t, path))
		check(t, r, all, all, 0, 0, all)
		if !maps.Equal(r.events.byType, byType) {
			t.Errorf("counts by event type: %v, want %v", r.events.byType, byType)
		}
		got := map[string]int{}
		for name, repo := range r.repositories.byName {
			got[strings.TrimSuffix(name, noRepository)] = repo.messages
		}
		if !maps.Equal(got, byRepository) {
			t.Errorf("counts by repository: %v, want %v", got, byRepository)
		}
		if r.payloads.bytes != size {
			t.Errorf("%d bytes of payload, want %d", r.payloads.bytes, size)
		}
		if reports != "" {
			t.Errorf("reported:\n%s", reports)
		}
	})
	t.Run("second run", func(t *testing.T) {
		r, _ := try(t, c, openFile(t, path))
		check(t, r, all, 0, all, 0, 0)
	})
	t.Run("malformed lines in the middle", func(t *testing.T) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.SplitAfter(data, []byte("\n"))
		half := len(lines) / 2
		in := bytes.Join(lines[:half], nil)
		in = append(in, "{\"event\":\n\nnonsense\n"...)
		in = append(in, bytes.Join(lines[half:], nil)...)
		r, reports := try(t, config{}, bytes.NewReader(in))
		check(t, r, all+2, all, 0, 2, all)
		want := fmt.Sprintf("^line %d: .+\nline %d: .+\n$", half+1, half+3)
		if !regexp.MustCompile(want).MatchString(reports) {
			t.Errorf("reported:\n%s\nwant a match of %s", reports, want)
		}
	})
}

func openFile(t *testing.T, path string) io.Reader {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// storeDir is a directory that the bus makes for itself.
func storeDir(t *testing.T) string { return filepath.Join(t.TempDir(), "store") }

const good = `{"event":"push","action":null,"payload":{"repository":{"full_name":"a/b"},"sender":{"login":"me"}}}`

// noise is text that does not compress, of n bytes.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = 'a' + byte(r.IntN(26))
	}
	return string(text)
}

func TestUnusableLines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ line, report string }{
		"not JSON":               {`nonsense`, "not an event in JSON"},
		"cut off":                {good[:40], "not an event in JSON"},
		"two values":             {good + good, "not an event in JSON"},
		"not an object":          {`[1]`, "not an event in JSON"},
		"null":                   {`null`, "no payload"},
		"no payload":             {`{"event":"push"}`, "no payload"},
		"payload null":           {`{"event":"push","payload":null}`, "no payload"},
		"payload no object":      {`{"event":"push","payload":[1]}`, "not a webhook's payload"},
		"repository is text":     {`{"event":"push","payload":{"repository":"a/b"}}`, "not a webhook's payload"},
		"no event":               {`{"payload":{}}`, "token 1"},
		"event with a level":     {`{"event":"push.opened","payload":{}}`, "contains a dot"},
		"action with a level":    {`{"event":"push","action":"a.b","payload":{}}`, "token 2"},
		"event with a wildcard":  {`{"event":"*","payload":{}}`, "contains a wildcard"},
		"action with a wildcard": {`{"event":"push","action":">","payload":{}}`, "contains a wildcard"},
		"empty action":           {`{"event":"push","action":"","payload":{}}`, "is empty"},
		"line break in an event": {`{"event":"push\r\nPUB x","payload":{}}`, "token 1"},
		"blank in an action":     {`{"event":"push","action":"a b","payload":{}}`, "contains a blank"},
		"larger than a message":  {`{"event":"push","payload":{"noise":"` + noise(1<<20+1) + `"}}`, "the limit is"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, reports := try(t, config{}, strings.NewReader(test.line+"\r\n"+good))
			check(t, r, 2, 1, 0, 1, 1)
			if !strings.HasPrefix(reports, "line 1: ") || !strings.Contains(reports, test.report) || strings.Count(reports, "\n") != 1 {
				t.Errorf("reported:\n%s\nwant one report of line 1 that has %q", reports, test.report)
			}
		})
	}
}

func TestLongLines(t *testing.T) {
	t.Parallel()
	in := ""
	for _, n := range []int{64 << 10, 500 << 10} {
		in += `{"event":"push","payload":{"noise":"` + noise(n) + `"}}` + "\n"
	}
	in += `{"event":"push","payload":{"blanks":"` + strings.Repeat(" ", 3<<20) + `"}}` // compresses well
	r, reports := try(t, config{}, strings.NewReader(in))
	check(t, r, 3, 3, 0, 0, 3)
	if r.payloads.largest < 3<<20 || r.payloads.sequence != 3 {
		t.Errorf("the largest payload is message %d with %d bytes", r.payloads.sequence, r.payloads.largest)
	}
	if reports != "" {
		t.Errorf("reported:\n%s", reports)
	}
}

func TestEmptyInput(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{"nothing": "", "empty lines": "\n \n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := try(t, config{}, strings.NewReader(in))
			check(t, r, 0, 0, 0, 0, 0)
		})
	}
}

// A run that ended before its consumers had handled everything leaves that to
// the next one.
func TestBacklog(t *testing.T) {
	t.Parallel()
	c := config{store: storeDir(t)}
	b, err := bus.New(bus.WithStoreDir(c.store))
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.Stream(t.Context(), bus.StreamConfig{Name: streamName, Subjects: []string{"github.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := bus.PublishTo(t.Context(), st, events.At("star", "created"), json.RawMessage(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	r, _ := try(t, c, strings.NewReader(good))
	check(t, r, 1, 1, 0, 0, 4)
}

// Two runs share one server and its consumers: together they do everything once.
func TestExternalServer(t *testing.T) {
	t.Parallel()
	b, err := bus.New(bus.WithListen("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const each = 50
	type outcome struct {
		r   *result
		err error
	}
	outcomes := make(chan outcome)
	for run := range 2 {
		var in strings.Builder
		for i := range each {
			fmt.Fprintf(&in, `{"event":"push","payload":{"run":%d,"number":%d}}`+"\n", run, i)
		}
		go func() {
			r, err := ingest(t.Context(), config{url: b.ClientURL()}, strings.NewReader(in.String()), 0, newConsole(io.Discard, false))
			outcomes <- outcome{r, err}
		}()
	}
	stored, handled := 0, 0 // stored: or there already, if an answer was lost on a machine that stood still
	for range 2 {
		o := <-outcomes
		if o.err != nil {
			t.Fatal(o.err)
		}
		stored += o.r.stored + o.r.duplicates
		handled += o.r.events.messages
	}
	if stored != 2*each || handled != 2*each {
		t.Errorf("%d stored and %d handled, want %d", stored, handled, 2*each)
	}
}

// An interrupt while the input has more to say ends the run; the next one stores
// the rest.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	c := config{store: storeDir(t)}
	ctx, interrupt := context.WithCancel(t.Context())
	in, feed := io.Pipe()
	defer in.Close()
	go func() {
		fmt.Fprintln(feed, good)
		fmt.Fprintln(feed, "") // taken when the first line is on its way to the stream
		fmt.Fprintln(feed, "") // taken when it is stored
		interrupt()
	}()
	r, err := ingest(ctx, c, in, 0, newConsole(io.Discard, false))
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("error %v", err)
	}
	if r.stored != 1 {
		t.Errorf("%d stored before the interrupt, want 1", r.stored)
	}
	again, _ := try(t, c, strings.NewReader(good+"\n"+strings.Replace(good, "push", "pull", 1)))
	if again.stored != 1 || again.duplicates != 1 || r.events.messages+again.events.messages != 2 {
		t.Errorf("after the interrupt: %d stored, %d there already, %d and %d handled; want 1, 1 and 2 in all",
			again.stored, again.duplicates, r.events.messages, again.events.messages)
	}
}

type brokenReader struct{}

var errBroken = errors.New("the disk is gone")

func (brokenReader) Read([]byte) (int, error) { return 0, errBroken }

func TestBrokenInput(t *testing.T) {
	t.Parallel()
	in := io.MultiReader(strings.NewReader(good+"\n"), brokenReader{})
	r, err := ingest(t.Context(), config{}, in, 0, newConsole(io.Discard, false))
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want %v of line 2", err, errBroken)
	}
	if r.stored != 1 {
		t.Errorf("%d stored before the error, want 1", r.stored)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want error
	}{
		"good":           {[]string{"-"}, nil},
		"unknown flag":   {[]string{"-nonsense"}, errUsage},
		"two files":      {[]string{"a", "b"}, errUsage},
		"store and url":  {[]string{"-store", "d", "-url", "nats://localhost"}, errUsage},
		"file is absent": {[]string{filepath.Join(t.TempDir(), "absent")}, os.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), test.args, strings.NewReader(good), io.Discard, newConsole(io.Discard, false))
			if !errors.Is(err, test.want) || (test.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	for strict, wantErr := range map[string]bool{"-strict=false": false, "-strict=true": true} {
		t.Run(strict, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := run(t.Context(), []string{strict}, strings.NewReader("nonsense\n"+good), &out, newConsole(io.Discard, false))
			if (err != nil) != wantErr {
				t.Errorf("error %v", err)
			}
			if !strings.HasPrefix(out.String(), "2 lines: 1 stored, 0 stored before, 1 unusable\n") {
				t.Errorf("printed:\n%s", &out)
			}
		})
	}
}

func TestSummaryIsSorted(t *testing.T) {
	t.Parallel()
	var in strings.Builder
	for _, event := range []string{"b", "c", "a", "c"} {
		in.WriteString(strings.Replace(good, `"push"`, fmt.Sprintf("%q", event), 1) + "\n")
	}
	in.WriteString(`{"event":"b","payload":{}}`)
	var out bytes.Buffer
	if err := run(t.Context(), nil, strings.NewReader(in.String()), &out, newConsole(io.Discard, false)); err != nil {
		t.Fatal(err)
	}
	const want = `5 lines: 4 stored, 1 stored before, 0 unusable

events: 4 messages handled
      2  b
      1  a
      1  c

repositories: 4 messages handled
      3  a/b (senders: 1)
      1  (none) (senders: 0)

payloads: 4 messages handled
    176  bytes in all
     58  bytes in the largest, message 1 on github.b.none
`
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", &out, want)
	}
}
