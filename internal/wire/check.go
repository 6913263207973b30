package wire

import (
	"fmt"
	"slices"
	"strings"
)

// reserved are the headers that the library writes itself. A user must not set them.
var reserved = []string{
	HeaderContentType, HeaderContentEncoding, HeaderAcceptEncoding, HeaderBusID, HeaderBusEdited, HeaderNatsMsgID,
	HeaderNatsServiceError, HeaderNatsServiceErrorCode,
	HeaderNatsExpectedLastSequence, HeaderNatsExpectedLastSubjectSequence, HeaderNatsExpectedLastSubjectSequenceSubject,
	HeaderNatsTTL, HeaderNatsBatchID, HeaderNatsBatchSequence, HeaderNatsBatchCommit,
}

// CheckHeader returns an error if a user must not send the header key: value. The allowed
// characters are those of HTTP tokens, as for NATS headers.
func CheckHeader(key, value string) error {
	if err := CheckName(key); err != nil {
		return err
	}
	if slices.ContainsFunc(reserved, func(o string) bool { return strings.EqualFold(o, key) }) {
		return fmt.Errorf("the library writes this header itself; use its option")
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
