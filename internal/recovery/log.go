package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/omnibus-go/bus/internal/core"
	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// Config describes the recovery log of a durable.
type Config struct {
	Core   *core.Core
	Store  *sidestream.Store // of the durable
	Stream string            // the stream of the durable

	MaxCrashes int  // a message that crashed the process so often becomes a dead letter; 0 for no limit
	Keyed      bool // the order of keys is kept
	BlockKeys  bool // with Keyed: a dead letter blocks its key

	Cause    func(failure error) string // the kind of a failure, as dead letters name it
	Handlers context.Context            // of the handlers; requests end with it
}

// Log is the recovery log of a durable. It belongs to one intake. Safe for concurrent use.
type Log struct {
	cfg  Config
	run  string       // identifies this consumer among those before and after it
	keys *blockedKeys // nil without keys

	mu        sync.Mutex
	crashes   map[uint64]int // by sequence: crash marks of earlier runs
	records   map[messageID]handback
	lastRead  uint64 // sequence of the latest handback message that was read
	lastWrote int    // number of handback messages that this log wrote
}

// messageID identifies a message among those of all sources of a durable.
type messageID struct {
	source   int
	sequence uint64 // in that source
}

func idOf(d *wire.Delivery) messageID {
	return messageID{d.Stored.Source, d.Stored.SourceSequence}
}

// Open reads what earlier runs of the consumer stored. Errors are *jserr.Error.
func Open(ctx context.Context, c Config) (*Log, error) {
	l := &Log{cfg: c, run: strconv.FormatUint(rand.Uint64(), 36),
		crashes: make(map[uint64]int), records: make(map[messageID]handback)}
	all := c.Store.Address(0)
	subjects, err := countSubjects(ctx, c.Store.Retries, all.RecoveryPattern())
	if err != nil {
		return nil, jserr.Wrap(sidestream.RetryStream(c.Stream), "read", err)
	}
	for subject := range subjects {
		if sequence, ok := sidestream.ParseStartMark(subject); ok {
			l.crashes[sequence]++
		}
	}
	if subjects[all.HandbackRecords()] > 0 {
		if err := l.readRecords(ctx); err != nil {
			return nil, err
		}
	}
	if c.Keyed {
		l.keys, err = openBlockedKeys(ctx, c)
	}
	return l, err
}

// countSubjects returns the number of messages on each subject of st that matches a pattern.
func countSubjects(ctx context.Context, st jetstream.Stream, pattern string) (map[string]uint64, error) {
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(pattern))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}

// Restore sets what earlier runs stored about d. An intake calls it once for each message.
func (l *Log) Restore(d wire.Delivery) {
	h, recorded := l.takeRecord(&d)
	if !recorded && d.Stored.Deliveries > 1 && l.request(l.readRecords) == nil { // else d is a suspect, which is safe
		h, recorded = l.takeRecord(&d)
	}
	switch {
	case recorded && h.Dead != nil:
		d.Stored.Dead, d.Stored.Attempt = h.Dead.Failure(), h.Dead.Attempts
	case recorded:
		d.Stored.Attempt = max(d.Stored.Attempt, h.Attempts+1)
	}
	l.mu.Lock()
	d.Stored.Crashes = l.crashes[d.Stored.Sequence]
	delete(l.crashes, d.Stored.Sequence)
	l.mu.Unlock()
	switch {
	case l.cfg.MaxCrashes == 0:
	case d.Stored.Crashes > 0, isSuspect(d.Stored, h, recorded):
		d.Stored.Isolation = wire.Alone
	case d.Stored.Source != 0 && !d.Stored.Unbegun: // their consumer counts deliveries anew when its server starts
		d.Stored.Isolation = wire.Marked
	}
}

// isSuspect reports whether a message was delivered more often than it was returned, by its
// record: then a process may have died of it.
func isSuspect(s *wire.Stored, h handback, recorded bool) bool {
	return s.Deliveries > 1 && (!recorded || h.Deliveries+1 < s.Deliveries)
}

// request calls fn, which asks the server and may be repeated, until there is an answer.
func (l *Log) request(fn func(context.Context) error) error {
	ctx, done := l.cfg.Core.Bound(l.cfg.Handlers)
	defer done()
	return l.cfg.Core.Link.Repeat(ctx, fn)
}

// MayRun reports whether d, which has a key, may run now. If wait is true earlier messages
// of its key come first. If barred is not nil d becomes a dead letter with this failure.
func (l *Log) MayRun(d wire.Delivery) (wait bool, barred error) {
	if !l.keys.any() {
		return false, nil
	}
	if l.request(func(ctx context.Context) (err error) {
		wait, barred, err = l.keys.mayRun(ctx, &d)
		return err
	}) != nil {
		return true, nil
	}
	return wait, barred
}

// RecordDeadLetter records that d is a dead letter now. It blocks d's key.
func (l *Log) RecordDeadLetter(d *wire.Delivery) {
	if l.cfg.Keyed && l.cfg.BlockKeys && d.Stored.Key != "" {
		l.keys.block(d)
	}
}

// handback is the record of one returned message. A stored message has a list of them.
type handback struct {
	Source     int    `json:"source,omitempty"`
	Sequence   uint64 `json:"position"`           // in that source
	Deliveries int    `json:"deliveries"`         // until then; 0 for a suspect
	Attempts   int    `json:"attempts,omitempty"` // that had failed

	Dead *settle.DeadReason `json:"dead,omitempty"` // of a message whose dead letter could not be stored
}

const (
	minKept         = 8       // so many handback messages are kept, and all of this run
	maxEnvelope     = 1 << 10 // the bytes of a handback message without its records
	maxCarriedAlong = 1000    // records of earlier messages that a handback message repeats
)

// readRecords reads the handback messages that were stored since the last call.
func (l *Log) readRecords(ctx context.Context) error {
	for {
		l.mu.Lock()
		next := l.lastRead + 1
		l.mu.Unlock()
		subject := l.cfg.Store.Address(0).HandbackRecords()
		raw, err := l.cfg.Store.Retries.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return jserr.Wrap(sidestream.RetryStream(l.cfg.Stream), "read", err)
		}
		if err := l.addRecords(raw); err != nil { // the messages are suspects, which is safe
			l.cfg.Core.Logger.Warn("a hand-back record cannot be read: the numbers of failed attempts in it are lost",
				"stream", sidestream.RetryStream(l.cfg.Stream), "sequence", raw.Sequence, "error", err)
		}
	}
}

// addRecords adds the records of a handback message. It returns an error if raw is none.
func (l *Log) addRecords(raw *jetstream.RawStreamMsg) error {
	all, err := parseRecords(raw.Data)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastRead = max(l.lastRead, raw.Sequence)
	for _, h := range all {
		l.records[messageID{h.Source, h.Sequence}] = h
	}
	return err
}

// parseRecords returns the records of a handback message, with bounded numbers and texts.
func parseRecords(data []byte) ([]handback, error) {
	var all []handback
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	for i := range all {
		h := &all[i]
		h.Attempts, h.Deliveries = sidestream.BoundAttempts(h.Attempts), min(max(h.Deliveries, 0), math.MaxInt32-1)
		sidestream.BoundReason(h.Dead)
	}
	return all, nil
}

// takeRecord removes and returns the record of d.
func (l *Log) takeRecord(d *wire.Delivery) (h handback, ok bool) {
	id := idOf(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok = l.records[id]
	delete(l.records, id)
	return h, ok
}

// RecordHandback stores the records of the messages that this process returns. An intake
// calls it once, when it stops. If that fails the messages are suspects for the next
// process, and the numbers of their attempts are lost.
func (l *Log) RecordHandback(ctx context.Context, ds []wire.Delivery) {
	ctx, done := l.cfg.Core.Bound(ctx)
	defer done()
	if slices.ContainsFunc(ds, func(d wire.Delivery) bool { return !d.Stored.Restored }) {
		_ = l.readRecords(ctx) // of other processes
	}
	var all []handback
	for i := range ds {
		all = append(all, l.recordOf(&ds[i]))
	}
	all = append(all, l.carriedAlong()...)
	subject := l.cfg.Store.Address(0).HandbackRecords()
	bodies := encodeRecords(all, l.cfg.Core.Link.MaxPayload()-maxEnvelope)
	for _, body := range bodies {
		if l.publish(ctx, subject, body) != nil {
			return
		}
	}
	l.mu.Lock()
	l.lastWrote += len(bodies)
	keep := max(minKept, l.lastWrote)
	l.mu.Unlock()
	_ = l.cfg.Store.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeKeep(uint64(keep)))
}

// recordOf returns the record of d. A message that waited here without a handler call
// keeps what earlier records say about it.
func (l *Log) recordOf(d *wire.Delivery) handback {
	s := d.Stored
	h := handback{Source: s.Source, Sequence: s.SourceSequence, Deliveries: s.Deliveries, Attempts: max(s.Attempt-1, 0)}
	if s.Dead != nil && !l.isBlocked(s.Dead) { // the dead letter that blocks the key may be gone by then
		h.Dead, h.Attempts = l.deadReason(s), s.Attempt
	}
	suspect := s.Isolation == wire.Alone
	if !s.Restored {
		before, recorded := l.takeRecord(d)
		h.Attempts = max(h.Attempts, before.Attempts)
		suspect = isSuspect(s, before, recorded)
	}
	if suspect {
		h.Deliveries = 0
	}
	return h
}

// isBlocked reports whether a failure, here or in another process, was a *BlockedKeyError.
func (l *Log) isBlocked(failure error) bool {
	return l.cfg.Cause(failure) == l.cfg.Cause(&BlockedKeyError{})
}

// deadReason returns the reason with which another process can store the dead letter.
func (l *Log) deadReason(s *wire.Stored) *settle.DeadReason {
	return &settle.DeadReason{Cause: l.cfg.Cause(s.Dead), Error: sidestream.Shorten(s.Dead.Error()), Attempts: s.Attempt}
}

// carriedAlong returns the latest records with failed attempts of messages that have not
// come since. They are stored again, because old handback messages are removed.
func (l *Log) carriedAlong() []handback {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []handback
	for _, h := range l.records {
		if h.Attempts > 0 {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b handback) int { return cmp.Compare(b.Sequence, a.Sequence) })
	return all[:min(len(all), maxCarriedAlong)]
}

// encodeRecords returns all as JSON lists of at most so many bytes.
func encodeRecords(all []handback, maxSize int) (bodies [][]byte) {
	var list []byte
	end := func() {
		if len(list) > 0 {
			bodies, list = append(bodies, append(list, ']')), nil
		}
	}
	for _, h := range all {
		record, err := json.Marshal(h)
		if err != nil {
			continue // no handback can fail
		}
		if len(list)+len(record)+len(",]") > maxSize {
			end()
		}
		separator := byte(',')
		if len(list) == 0 {
			separator = '['
		}
		list = append(append(list, separator), record...)
	}
	end()
	return bodies
}

// CrashLoopError is the failure of a message that ended the process again and again.
type CrashLoopError struct{ Crashes int }

func (e *CrashLoopError) Error() string {
	return fmt.Sprintf("bus: the process died %s while it handled this message and no other", plural.Of(e.Crashes, "time", "times"))
}

// MarkStarted stores the crash mark of d before its handler is called. fatal is the failure
// with which d becomes a dead letter instead. After any other err the intake tries again.
func (l *Log) MarkStarted(d wire.Delivery) (fatal, err error) {
	if d.Stored.Isolation == wire.Alone && !l.cfg.Keyed { // other processes may have died of it meanwhile
		if err := l.request(func(ctx context.Context) error { return l.countCrashes(ctx, d.Stored) }); err != nil {
			return nil, fmt.Errorf("cannot see whether a message has crashed a process: %w", err)
		}
	}
	if d.Stored.Crashes >= l.cfg.MaxCrashes {
		l.MarkEnded(d)
		return &CrashLoopError{d.Stored.Crashes}, nil
	}
	if err := l.request(func(ctx context.Context) error { return l.storeMark(ctx, d.Stored) }); err != nil {
		return nil, fmt.Errorf("cannot mark a message that may crash the process: %w", err)
	}
	return nil, nil
}

// countCrashes sets the number of crash marks that other runs left of a message.
func (l *Log) countCrashes(ctx context.Context, s *wire.Stored) error {
	a := l.cfg.Store.Address(s.Sequence)
	marks, err := countSubjects(ctx, l.cfg.Store.Retries, a.StartMark("*"))
	if err != nil {
		return err
	}
	delete(marks, a.StartMark(l.run)) // from an earlier try whose answer was lost
	s.Crashes = len(marks)
	return nil
}

// publish stores a record.
func (l *Log) publish(ctx context.Context, subject string, body []byte, opts ...jetstream.PublishOpt) error {
	return l.cfg.Core.WithReserve(ctx, len(body), func() error {
		_, err := l.cfg.Core.JetStream.Publish(ctx, subject, body, opts...)
		return err
	})
}

// storeMark stores the crash mark of this run, unless it is stored already.
func (l *Log) storeMark(ctx context.Context, s *wire.Stored) error {
	subject := l.cfg.Store.Address(s.Sequence).StartMark(l.run)
	err := l.publish(ctx, subject, nil, jetstream.WithExpectLastSequencePerSubject(0))
	if jserr.IsWrongLastSequence(err) {
		return nil
	}
	return err
}

// MarkEnded removes the crash marks of d, whose handler has returned. It does not wait for
// the server: a mark that stays does little harm, since the message is done.
func (l *Log) MarkEnded(d wire.Delivery) {
	body, err := json.Marshal(map[string]string{"filter": l.cfg.Store.Address(d.Stored.Sequence).StartMark("*")})
	if err == nil {
		_ = l.cfg.Core.Link.Publish(&wire.Out{Subject: "$JS.API.STREAM.PURGE." + sidestream.RetryStream(l.cfg.Stream), Data: body})
	}
}
