package recovery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

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
		l.addRecords(raw)
	}
}

func (l *Log) addRecords(raw *jetstream.RawStreamMsg) {
	var all []handback
	if json.Unmarshal(raw.Data, &all) != nil {
		all = nil // no handback message
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastRead = max(l.lastRead, raw.Sequence)
	for _, h := range all {
		l.records[messageID{h.Source, h.Sequence}] = h
	}
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
		if _, err := l.cfg.Core.JetStream.Publish(ctx, subject, body); err != nil {
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
