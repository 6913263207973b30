package wire

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	ackPrefix = "$JS.ACK."
	ackTokens = 7 // after the prefix, from old servers; new servers send two more before these, and perhaps some after
)

var errNoAck = errors.New("its reply is not where a message of a stream is settled")

// ReadAck sets the fields of s that the ack subject of a message names: the stream, the
// sequences, the time and the number of deliveries. It does the same as Metadata of nats.go
// without an allocation, and it refuses a token that is not a number.
func (s *Stored) ReadAck(subject string) error {
	rest, ok := strings.CutPrefix(subject, ackPrefix)
	n := strings.Count(rest, ".") + 1
	if !ok || n < ackTokens || n == ackTokens+1 {
		return errNoAck
	}
	if n > ackTokens { // domain and account
		_, rest, _ = strings.Cut(rest, ".")
		_, rest, _ = strings.Cut(rest, ".")
	}
	s.Stream, rest, _ = strings.Cut(rest, ".")
	_, rest, _ = strings.Cut(rest, ".") // the consumer
	var numbers [5]int64
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		number, err := strconv.ParseUint(token, 10, 63)
		if err != nil {
			return errNoAck
		}
		numbers[i] = int64(number)
	}
	s.Deliveries = int(min(numbers[0], math.MaxInt32))
	s.Sequence, s.ConsumerSequence = uint64(numbers[1]), uint64(numbers[2])
	s.Time, s.NumPending = time.Unix(0, numbers[3]), uint64(numbers[4])
	return nil
}
