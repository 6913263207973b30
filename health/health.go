// Package health has the report that bus.Health returns. A Report can be written as
// JSON: a Status is its word, a time.Duration a number of nanoseconds.
package health

import (
	"fmt"
	"time"
)

// Status is how well a bus or a part of it works.
type Status int

// The statuses, from best to worst.
const (
	Healthy  Status = iota // everything works
	Degraded               // it works, and something needs attention
	Failed                 // it cannot do its job now
)

func (s Status) String() string {
	switch s {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("Status(%d)", int(s))
}

// MarshalText returns the word of the status.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Problem is one reason why a bus is not healthy.
type Problem struct {
	Status Status `json:"status"` // Degraded or Failed
	Part   string `json:"part"`   // "bus", "connection", "server", "store", "leaf", "publisher", "subscription" (also of responders) or "consumer"
	Reason string `json:"reason"`
}

// Report is what bus.Health found.
type Report struct {
	Status   Status        `json:"status"`         // the worst status of the problems
	Problems []Problem     `json:"problems"`       // empty when the bus is healthy
	Server   string        `json:"server"`         // URL and name of the server; empty while the bus is disconnected
	Embedded bool          `json:"embedded"`       // the server runs in this process
	RTT      time.Duration `json:"rtt"`            // of one round trip to the server; 0 when there was none
	Leaf     *Link         `json:"leaf,omitempty"` // of bus.WithLeaf; nil without that
}

// Link is the state of the link of an edge. A link that is down is no problem of the bus, which
// works without it.
type Link struct {
	Up     bool      `json:"up"`
	Since  time.Time `json:"since"`            // it has been up or down; while it was never up, since the bus was made
	Server string    `json:"server,omitempty"` // the name of the server at the other end, while the link is up
	Reason string    `json:"reason,omitempty"` // what the embedded server last said of the link, while it is down
}

// String returns the state as text.
func (l Link) String() string {
	state := "up, to server " + l.Server + ","
	if !l.Up {
		state = "down"
	}
	text := fmt.Sprintf("the leaf link has been %s since %s", state, l.Since.UTC().Format(time.RFC3339))
	if l.Reason != "" {
		text += ": " + l.Reason
	}
	return text
}

// Add adds a problem to the report. Its reason is made as fmt.Sprintf does. Not safe for
// concurrent use.
func (r *Report) Add(s Status, part, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{Status: s, Part: part, Reason: fmt.Sprintf(format, args...)})
	r.Status = max(r.Status, s)
}

// Thresholds says from where on bus.Health reports Degraded. A zero field means its
// default.
type Thresholds struct {
	SlowRTT      time.Duration `json:"rtt"` // a round trip takes longer; default 500 ms
	PendingRatio float64       // a larger share of a subscription's pending limits, or of the buffer of PublishAsync, is used; default 0.8
	StoreRatio   float64       // a larger share of WithMaxMemory or WithMaxStore is used; default 0.9
	OldestAge    time.Duration // a consumer's oldest unfinished message is older; default: no age is too old
	ErrorRatio   float64       // a larger share of the last 100 to 200 handler calls failed; default 0.5. Fewer than 20 calls are not judged
	HandlerTime  time.Duration // a handler call of a consumer runs for longer; default 5 minutes
}

// WithDefaults returns t with its zero fields replaced by the defaults.
func (t Thresholds) WithDefaults() Thresholds {
	if t.SlowRTT == 0 {
		t.SlowRTT = 500 * time.Millisecond
	}
	if t.PendingRatio == 0 {
		t.PendingRatio = 0.8
	}
	if t.StoreRatio == 0 {
		t.StoreRatio = 0.9
	}
	if t.ErrorRatio == 0 {
		t.ErrorRatio = 0.5
	}
	if t.HandlerTime == 0 {
		t.HandlerTime = 5 * time.Minute
	}
	return t
}
