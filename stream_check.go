package bus

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var streamName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

func badStreamName(name string) error {
	return badStreamField("Name", strconv.Quote(name), "use 1 to 200 letters, digits, - and _")
}

func badStreamField(field string, value any, reason string) error {
	return &OptionError{Option: "StreamConfig." + field, Value: fmt.Sprint(value), Reason: reason}
}

// check returns all that is wrong with c whatever the server has.
func (c *StreamConfig) check() error {
	var errs []error
	if !streamName.MatchString(c.Name) {
		errs = append(errs, badStreamName(c.Name))
	}
	for _, s := range c.Subjects {
		errs = append(errs, checkPattern(s))
	}
	errs = append(errs, c.checkKinds(), c.checkLimits(), c.checkCopies())
	for key := range c.Metadata {
		if reserved(key) {
			errs = append(errs, badStreamField("Metadata", strconv.Quote(key), "keys that begin with _nats. or _omnibus. are not the program's"))
		}
	}
	return errors.Join(errs...)
}

func (c *StreamConfig) checkKinds() error {
	var errs []error
	if c.Revision < 0 {
		errs = append(errs, badStreamField("Revision", c.Revision, "must not be negative"))
	}
	if c.Storage < 0 || c.Storage > MemoryStorage {
		errs = append(errs, badStreamField("Storage", int(c.Storage), "use FileStorage or MemoryStorage"))
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		errs = append(errs, badStreamField("Replicas", c.Replicas, "must lie between 1 and 5"))
	}
	if c.Retention < 0 || c.Retention > InterestRetention {
		errs = append(errs, badStreamField("Retention", int(c.Retention), "use LimitsRetention, WorkQueueRetention or InterestRetention"))
	}
	if c.Discard < 0 || c.Discard > DiscardNewPerSubject {
		errs = append(errs, badStreamField("Discard", int(c.Discard), "use DiscardOld, DiscardNew or DiscardNewPerSubject"))
	}
	return errors.Join(errs...)
}

func (c *StreamConfig) checkLimits() error {
	var errs []error
	for _, limit := range []struct {
		field string
		value int64
	}{{"MaxMsgs", c.MaxMsgs}, {"MaxBytes", c.MaxBytes}, {"MaxMsgsPerSubject", c.MaxMsgsPerSubject}, {"MaxMsgSize", int64(c.MaxMsgSize)}} {
		if limit.value < Unlimited {
			errs = append(errs, badStreamField(limit.field, limit.value, "must be more than zero, or bus.Unlimited"))
		}
	}
	if c.MaxAge != Unlimited && c.MaxAge != 0 && c.MaxAge < 100*time.Millisecond {
		errs = append(errs, badStreamField("MaxAge", c.MaxAge, "must be at least 100ms, or bus.Unlimited"))
	}
	if c.Duplicates < 0 || c.Duplicates > 0 && c.Duplicates < 100*time.Millisecond {
		errs = append(errs, badStreamField("Duplicates", c.Duplicates, "must be at least 100ms"))
	}
	errs = append(errs, checkWindow(c.Duplicates, c.MaxAge))
	if c.SubjectDeleteMarkerTTL < 0 || c.SubjectDeleteMarkerTTL > 0 && c.SubjectDeleteMarkerTTL < time.Second {
		errs = append(errs, badStreamField("SubjectDeleteMarkerTTL", c.SubjectDeleteMarkerTTL, "must be at least 1s"))
	}
	return errors.Join(errs...)
}

// checkWindow compares the window for duplicates with the age at which messages go.
func checkWindow(window, age time.Duration) error {
	if age > 0 && window > age {
		return badStreamField("Duplicates", window, fmt.Sprintf("must not be longer than MaxAge, %v", age))
	}
	return nil
}

// checkCopies is check for what has to do with other streams and subjects.
func (c *StreamConfig) checkCopies() error {
	var errs []error
	if !c.Mirror.none() {
		errs = append(errs, c.Mirror.check("Mirror"))
		if len(c.Subjects) > 0 || len(c.Sources) > 0 {
			errs = append(errs, badStreamField("Mirror", c.Mirror.Stream, "a mirror stores nothing else; leave Subjects and Sources out, or use Sources instead"))
		}
	}
	for i := range c.Sources {
		errs = append(errs, c.Sources[i].check(fmt.Sprintf("Sources[%d]", i)))
	}
	if t := c.SubjectTransform; t != (SubjectTransform{}) {
		errs = append(errs, t.check("SubjectTransform"))
	}
	if r := c.Republish; r != (Republish{}) {
		errs = append(errs, SubjectTransform{r.From, r.To}.check("Republish"))
	}
	return errors.Join(errs...)
}

func (s *StreamSource) none() bool {
	return s.Stream == "" && s.Subject == "" && len(s.Transforms) == 0 && s.StartSequence == 0 && s.StartTime.IsZero() && s.Domain == ""
}

func (s *StreamSource) check(field string) error {
	var errs []error
	if !streamName.MatchString(s.Stream) {
		errs = append(errs, badStreamField(field+".Stream", strconv.Quote(s.Stream), "use 1 to 200 letters, digits, - and _"))
	}
	if s.Subject != "" {
		errs = append(errs, checkPattern(s.Subject))
	}
	if s.Subject != "" && len(s.Transforms) > 0 {
		errs = append(errs, badStreamField(field+".Subject", s.Subject, "Transforms say what is copied; leave one of the two out"))
	}
	for _, t := range s.Transforms {
		errs = append(errs, t.check(field+".Transforms"))
	}
	if s.StartSequence > 0 && !s.StartTime.IsZero() {
		errs = append(errs, badStreamField(field+".StartSequence", s.StartSequence, "StartTime is given, too; leave one of the two out"))
	}
	if strings.ContainsAny(s.Domain, ".*> \t\r\n") {
		errs = append(errs, badStreamField(field+".Domain", strconv.Quote(s.Domain), "must have no dot, wildcard or blank"))
	}
	return errors.Join(errs...)
}

// check looks at what the server would not say much about. An empty From means all.
func (t SubjectTransform) check(field string) error {
	var err error
	if t.To == "" {
		err = badStreamField(field+".To", `""`, "must be the subject that becomes of one that matches From")
	}
	if t.From != "" {
		err = errors.Join(err, checkPattern(t.From))
	}
	return err
}
