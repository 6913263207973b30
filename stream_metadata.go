package bus

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// What the library keeps in the metadata of a stream.
const (
	keyRevision = "_omnibus.revision" // StreamConfig.Revision
	keyPast     = "_omnibus.past"     // values that fields had, see past
)

// reserved reports whether key is not the program's.
func reserved(key string) bool {
	return strings.HasPrefix(key, "_nats.") || strings.HasPrefix(key, "_omnibus.")
}

func setMetadata(c *StreamConfig, js *jetstream.StreamConfig) {
	if len(c.Metadata) == 0 {
		return
	}
	merged := make(map[string]string, len(js.Metadata)+len(c.Metadata))
	maps.Copy(merged, js.Metadata)
	maps.Copy(merged, c.Metadata)
	js.Metadata = merged
}

// showMetadata shows the program's.
func showMetadata(js *jetstream.StreamConfig) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(js.Metadata)) {
		if !reserved(key) {
			pairs = append(pairs, fmt.Sprintf("%q: %q", key, js.Metadata[key]))
		}
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// revisionOf is 0 for a stream without one.
func revisionOf(js *jetstream.StreamConfig) int {
	n, _ := strconv.Atoi(js.Metadata[keyRevision])
	return n
}

// past are hashes of the values that fields of a stream had, the latest last. A
// program that wants one of them is older than the one that replaced it, or nobody
// can tell: two programs without revisions would undo each other's changes at each
// start. So a field goes back with a higher revision only.
type past map[string][]string

// mostPast is how many values of a field are remembered.
const mostPast = 16

func pastOf(js *jetstream.StreamConfig) past {
	var p past
	if err := json.Unmarshal([]byte(js.Metadata[keyPast]), &p); err != nil || p == nil {
		return make(past) // none, or what somebody has damaged
	}
	return p
}

func (p past) has(field, value string) bool { return slices.Contains(p[field], hashOf(value)) }

// replaced notes that a field had the value was, and has the value is.
func (p past) replaced(field, was, is string) {
	old, now := hashOf(was), hashOf(is)
	values := slices.DeleteFunc(p[field], func(v string) bool { return v == old || v == now })
	values = append(values, old)
	p[field] = values[max(0, len(values)-mostPast):]
}

func hashOf(value string) string {
	h := fnv.New64a()
	h.Write([]byte(value))
	return strconv.FormatUint(h.Sum64(), 36)
}

// note writes down what the library keeps of a stream.
func note(js *jetstream.StreamConfig, revision int, p past) {
	metadata := make(map[string]string, len(js.Metadata)+2)
	maps.Copy(metadata, js.Metadata)
	if revision > 0 {
		metadata[keyRevision] = strconv.Itoa(revision)
	}
	if len(p) > 0 {
		text, _ := json.Marshal(p) // of strings
		metadata[keyPast] = string(text)
	}
	js.Metadata = metadata
}
