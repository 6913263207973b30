package wire

import (
	"fmt"
	"strings"
)

// Header names, as they are written. Read them with Get: other clients change their case.
const (
	HeaderContentType     = "Content-Type"     // set where the Go type does not imply it
	HeaderContentEncoding = "Content-Encoding" // set where Data is compressed
	HeaderAcceptEncoding  = "Accept-Encoding"  // on requests: the response may be compressed so

	HeaderBusID     = "Bus-Id"      // the message's id across copies, redrives and switches
	HeaderNatsMsgID = "Nats-Msg-Id" // the server's deduplication key

	HeaderNatsExpectedLastSequence               = "Nats-Expected-Last-Sequence"                 // the server stores the message only then
	HeaderNatsExpectedLastSubjectSequence        = "Nats-Expected-Last-Subject-Sequence"         // likewise, of the message's subject
	HeaderNatsExpectedLastSubjectSequenceSubject = "Nats-Expected-Last-Subject-Sequence-Subject" // or of these

	HeaderNatsTTL    = "Nats-TTL"    // how long the server keeps the message
	HeaderNatsRollup = "Nats-Rollup" // the message replaces earlier ones

	HeaderNatsBatchID       = "Nats-Batch-Id"       // of an atomic batch: all of it is stored, or nothing
	HeaderNatsBatchSequence = "Nats-Batch-Sequence" // of the message in there, from 1
	HeaderNatsBatchCommit   = "Nats-Batch-Commit"   // on the last
	HeaderBusEdited         = "Bus-Edited"          // when somebody changed a dead letter before it was given back; one value each time

	HeaderNatsSchedule       = "Nats-Schedule"        // when the server publishes the message
	HeaderNatsScheduleTarget = "Nats-Schedule-Target" // and where

	HeaderNatsServiceError     = "Nats-Service-Error"      // of the micro protocol: the text
	HeaderNatsServiceErrorCode = "Nats-Service-Error-Code" // and the number
)

// Get returns the first value of key, or "". A key in another case counts only where
// there is no exact one; of several such, the first in byte order.
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

// ContentTypeError is returned for a content type that is no media type. It is the
// sender's mistake, and lasting: no newer member would understand it.
type ContentTypeError struct {
	Value  string // as it was received
	Reason string
}

// Error quotes the start of the value.
func (e *ContentTypeError) Error() string {
	const shown = 64
	value := e.Value
	if len(value) > shown {
		value = value[:shown] + "…"
	}
	return fmt.Sprintf("%q is no content type: %s; send one such as \"application/json\"", value, e.Reason)
}

// ParseContentType returns the media type of a Content-Type value: lower case, without
// parameters and blanks around. Parameters are not looked at. Anything but type/subtype
// made of token characters (RFC 9110) is a *ContentTypeError.
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

// isToken reports whether s consists of tchar (RFC 9110, section 5.6.2).
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
