package wire

import (
	"fmt"
	"slices"
	"strings"
)

// The header names, as they are written. Read headers with Get, because other clients may
// change the case.
const (
	HeaderContentType     = "Content-Type"     // set if the Go type does not imply it
	HeaderContentEncoding = "Content-Encoding" // set if Data is compressed
	HeaderAcceptEncoding  = "Accept-Encoding"  // of a request: the encodings that the response may have

	HeaderBusID     = "Bus-Id"      // the ID of the message, kept in copies and redrives
	HeaderNatsMsgID = "Nats-Msg-Id" // the deduplication ID

	HeaderNatsExpectedLastSequence               = "Nats-Expected-Last-Sequence"                 // the server stores the message only if the last sequence of the stream is this
	HeaderNatsExpectedLastSubjectSequence        = "Nats-Expected-Last-Subject-Sequence"         // the same for the last sequence of the subject
	HeaderNatsExpectedLastSubjectSequenceSubject = "Nats-Expected-Last-Subject-Sequence-Subject" // the same for these subjects

	HeaderNatsTTL    = "Nats-TTL"    // how long the server keeps the message
	HeaderNatsRollup = "Nats-Rollup" // the message replaces earlier ones

	HeaderNatsBatchID       = "Nats-Batch-Id"       // the ID of an atomic batch, which is stored completely or not at all
	HeaderNatsBatchSequence = "Nats-Batch-Sequence" // the number of the message in the batch, from 1
	HeaderNatsBatchCommit   = "Nats-Batch-Commit"   // set on the last message of the batch
	HeaderBusEdited         = "Bus-Edited"          // the times at which a dead letter was changed before a redrive

	HeaderNatsSchedule       = "Nats-Schedule"        // when the server publishes the message
	HeaderNatsScheduleTarget = "Nats-Schedule-Target" // the subject to which it publishes it

	HeaderNatsServiceError     = "Nats-Service-Error"      // of the NATS micro protocol: the error text
	HeaderNatsServiceErrorCode = "Nats-Service-Error-Code" // of the NATS micro protocol: the error code
)

// Get returns the first value of key, or "". If there is no such key it takes the key that
// differs only in case; of several, the first in byte order.
func Get(h Header, key string) string {
	if len(h) == 0 {
		return ""
	}
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	var found, value string
	for k, values := range h {
		if len(values) > 0 && strings.EqualFold(k, key) && (found == "" || k < found) {
			found, value = k, values[0]
		}
	}
	return value
}

// ContentTypeError is the error for a content type that is not a media type. The sender made a
// mistake, and a retry fails again in every version.
type ContentTypeError struct {
	Value  string // as it was received
	Reason string
}

// Error returns a text with the start of the value.
func (e *ContentTypeError) Error() string {
	const shown = 64
	value := e.Value
	if len(value) > shown {
		value = value[:shown] + "…"
	}
	return fmt.Sprintf("%q is not a content type: %s; send one such as \"application/json\"", value, e.Reason)
}

// ParseContentType returns the media type of a Content-Type value, in lower case, without
// parameters and blanks. It ignores parameters. If the value is not type/subtype in token
// characters (RFC 9110), the error is a *ContentTypeError.
func ParseContentType(value string) (string, error) {
	media, _, _ := strings.Cut(value, ";")
	media = strings.Trim(media, " \t")
	major, minor, slash := strings.Cut(media, "/")
	switch {
	case media == "":
		return "", &ContentTypeError{value, "it is empty"}
	case !slash || major == "" || minor == "":
		return "", &ContentTypeError{value, "it is not of the form type/subtype"}
	case !isToken(major) || !isToken(minor):
		return "", &ContentTypeError{value, "it has a character that media types cannot have"}
	}
	return strings.ToLower(media), nil
}

// isToken reports whether s has only token characters (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// reserved are the headers that the library writes itself. A user must not set them.
var reserved = []string{
	HeaderContentType, HeaderContentEncoding, HeaderAcceptEncoding, HeaderBusID, HeaderBusEdited, HeaderNatsMsgID,
	HeaderNatsServiceError, HeaderNatsServiceErrorCode,
	HeaderNatsExpectedLastSequence, HeaderNatsExpectedLastSubjectSequence, HeaderNatsExpectedLastSubjectSequenceSubject,
	HeaderNatsTTL, HeaderNatsBatchID, HeaderNatsBatchSequence, HeaderNatsBatchCommit,
}

// serverPrefix begins the headers that mean something to the server.
const serverPrefix = "Nats-"

// passing are the headers of the server that a user may set. The library has no option for
// them and does not rely on them.
var passing = []string{
	"Nats-Expected-Stream", "Nats-Expected-Last-Msg-Id", "Nats-Incr", HeaderNatsRollup,
	HeaderNatsSchedule, HeaderNatsScheduleTarget, "Nats-Schedule-Rollup", "Nats-Schedule-Source", "Nats-Schedule-Time-Zone", "Nats-Schedule-TTL",
}

// CheckHeader returns an error if a user must not send the header key: value. The allowed
// characters are those of HTTP tokens, as for NATS headers.
func CheckHeader(key, value string) error {
	if err := CheckName(key); err != nil {
		return err
	}
	isIn := func(names []string) bool {
		return slices.ContainsFunc(names, func(o string) bool { return strings.EqualFold(o, key) })
	}
	if isIn(reserved) {
		return fmt.Errorf("the library writes this header itself; use its option")
	}
	if len(key) >= len(serverPrefix) && strings.EqualFold(key[:len(serverPrefix)], serverPrefix) && !isIn(passing) {
		return fmt.Errorf("the header belongs to the server; choose a name that does not begin with %s", serverPrefix)
	}
	return CheckValue(value)
}

// CheckName returns an error if key cannot be the name of a header.
func CheckName(key string) error {
	if key == "" {
		return fmt.Errorf("the name is empty")
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`:"(),/;<=>?@[\]{}`, c) >= 0 {
			return fmt.Errorf("the name has the character %q; use letters, digits and -", c)
		}
	}
	return nil
}

// CheckValue returns an error if value cannot be the value of a header. A line break would
// begin another header, and blanks at the ends are not transmitted.
func CheckValue(value string) error {
	if i := strings.IndexAny(value, "\r\n\x00"); i >= 0 {
		return fmt.Errorf("the value has the character %q", value[i])
	}
	if strings.TrimSpace(value) != value {
		return fmt.Errorf("the value begins or ends with a blank")
	}
	return nil
}
