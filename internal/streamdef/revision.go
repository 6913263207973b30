package streamdef

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	keyRevision = "_omnibus.revision" // the revision of the stream's definition, decimal
	keyPast     = "_omnibus.past"     // of development versions; ignored, and removed with the next change
)

// Reserved reports whether a key of a stream's metadata belongs to the server or to the
// library.
func Reserved(key string) bool {
	return strings.HasPrefix(key, "_nats.") || strings.HasPrefix(key, "_omnibus.")
}

// showMetadata shows the metadata of the program, without reserved keys.
func showMetadata(js *jetstream.StreamConfig) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(js.Metadata)) {
		if !Reserved(key) {
			pairs = append(pairs, fmt.Sprintf("%q: %q", key, js.Metadata[key]))
		}
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// revisionOf returns the revision of a stream, 0 for none.
func revisionOf(js *jetstream.StreamConfig) int {
	n, _ := strconv.Atoi(js.Metadata[keyRevision])
	return n
}

// setRevision writes the library's part of the metadata of js.
func setRevision(js *jetstream.StreamConfig, revision int) {
	metadata := make(map[string]string, len(js.Metadata)+1)
	maps.Copy(metadata, js.Metadata)
	delete(metadata, keyPast)
	if revision > 0 {
		metadata[keyRevision] = strconv.Itoa(revision)
	}
	js.Metadata = metadata
}
