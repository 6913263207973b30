package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/settle"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// memory is what outlives a consumer's process: which messages were begun alone and not
// ended, which were given back in an orderly way, and which keys are parked. It lies in
// the two streams beside the stream; see ADR 16.
type memory struct {
	side       *sidestream.Store
	consumer   *Consumer
	maxCrashes int    // 0: crashes are not looked for
	life       string // of this consumer in this process
	keys       *parked

	mu    sync.Mutex
	began map[uint64]int // by sequence: so many earlier lives began it and have not ended it
	notes map[place]givenBack
	heard uint64 // the position of the latest note that was read
	wrote int    // notes
}

// place is where a message lies: in the stream itself, or in S-retry.
type place struct {
	source   int
	position uint64
}

// givenBack is what a note says about a message.
type givenBack struct {
	Source     int    `json:"source,omitempty"`
	Position   uint64 `json:"position"`
	Deliveries int    `json:"deliveries"`         // until then
	Attempts   int    `json:"attempts,omitempty"` // that had failed

	Dead *settle.DeadReason `json:"dead,omitempty"` // it was to become a dead letter, which could not be written
}

const (
	mostNotes  = 8       // older ones are removed, but for those of this life
	besideNote = 1 << 10 // at most so many bytes of a message are not of its note
)

// openMemory reads what earlier lives of the consumer left.
func (c *Consumer) openMemory(ctx context.Context, o *consumeOptions) (*memory, error) {
	m := &memory{side: c.side, consumer: c, maxCrashes: max(o.retry.MaxCrashes, 0), life: strconv.FormatUint(rand.Uint64(), 36),
		began: make(map[uint64]int), notes: make(map[place]givenBack)}
	subjects, err := subjectsOf(ctx, m.side.Retries, m.side.Address(0).RecoveryPattern())
	if err != nil {
		return nil, streamError(sidestream.RetryStream(c.stream), "read", err)
	}
	for subject := range subjects {
		if sequence, ok := sidestream.ParseStartMark(subject); ok {
			m.began[sequence]++
		}
	}
	if subjects[m.side.Address(0).HandbackRecords()] > 0 {
		if err := m.readNotes(ctx); err != nil {
			return nil, err
		}
	}
	if o.key.make == nil {
		return m, nil
	}
	m.keys, err = openParked(ctx, c.side, c.stream, o.key.parks())
	return m, err
}

// subjectsOf returns how many messages st has on each subject that matches a pattern.
func subjectsOf(ctx context.Context, st jetstream.Stream, pattern string) (map[string]uint64, error) {
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(pattern))
	if err != nil {
		return nil, err
	}
	return info.State.Subjects, nil
}

// readNotes reads the notes that have come since.
func (m *memory) readNotes(ctx context.Context) error {
	for {
		m.mu.Lock()
		next := m.heard + 1
		m.mu.Unlock()
		raw, err := m.side.Retries.GetMsg(ctx, next, jetstream.WithGetMsgSubject(m.side.Address(0).HandbackRecords()))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return streamError(sidestream.RetryStream(m.consumer.stream), "read", err)
		}
		m.heed(raw)
	}
}

func (m *memory) heed(raw *jetstream.RawStreamMsg) {
	var all []givenBack
	if json.Unmarshal(raw.Data, &all) != nil {
		all = nil // not ours
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = max(m.heard, raw.Sequence)
	for _, g := range all {
		m.notes[place{g.Source, g.Position}] = g
	}
}

// note takes what is noted of d.
func (m *memory) note(d *wire.Delivery) (g givenBack, ok bool) {
	at := place{d.Stored.Source, d.Stored.SourceSequence}
	m.mu.Lock()
	defer m.mu.Unlock()
	g, ok = m.notes[at]
	delete(m.notes, at)
	return g, ok
}

// Restore is of intake.Recovery.
func (m *memory) Restore(d wire.Delivery) {
	g, noted := m.note(&d)
	if !noted && d.Stored.Deliveries > 1 && m.ask(m.readNotes) == nil { // without it d is a suspect, which is the safe side
		g, noted = m.note(&d)
	}
	switch {
	case noted && g.Dead != nil:
		markDead(&d, g.Dead)
	case noted:
		d.Stored.Attempt = max(d.Stored.Attempt, g.Attempts+1)
	}
	m.mu.Lock()
	d.Stored.Crashes = m.began[d.Stored.Sequence]
	delete(m.began, d.Stored.Sequence)
	m.mu.Unlock()
	switch {
	case m.maxCrashes == 0:
	case d.Stored.Crashes > 0, d.Stored.Deliveries > 1 && (!noted || g.Deliveries+1 < d.Stored.Deliveries):
		d.Stored.Isolation = wire.Alone
	case d.Stored.Source != 0: // the count of those begins anew when their server starts
		d.Stored.Isolation = wire.Marked
	}
}

// ask calls fn, which asks the server and must do no harm twice, until it has an answer.
func (m *memory) ask(fn func(context.Context) error) error {
	ctx, done := m.consumer.bus.core.Bound(m.consumer.receiver.ctx)
	defer done()
	return m.consumer.bus.core.Link.Repeat(ctx, fn)
}

// MarkStarted is of intake.Recovery.
func (m *memory) MarkStarted(d wire.Delivery) (fatal, err error) {
	if d.Stored.Isolation == wire.Alone && m.keys == nil { // other members may have died since
		if err := m.ask(func(ctx context.Context) error { return m.countDeaths(ctx, d.Stored) }); err != nil {
			return nil, fmt.Errorf("cannot see whether a message has ended a process: %w", err)
		}
	}
	if d.Stored.Crashes >= m.maxCrashes {
		m.MarkEnded(d)
		return &crashLoop{d.Stored.Crashes}, nil
	}
	if err := m.ask(func(ctx context.Context) error { return m.mark(ctx, d.Stored) }); err != nil {
		return nil, fmt.Errorf("cannot mark a message that may end the process: %w", err)
	}
	return nil, nil
}

// countDeaths sets how many other lives have begun a message and not ended it.
func (m *memory) countDeaths(ctx context.Context, s *wire.Stored) error {
	p := m.side.Address(s.Sequence)
	marks, err := subjectsOf(ctx, m.side.Retries, p.StartMark("*"))
	if err != nil {
		return err
	}
	delete(marks, p.StartMark(m.life)) // of an earlier try here, whose answer was lost
	s.Crashes = len(marks)
	return nil
}

// mark notes that this life begins a message, if it is not noted yet.
func (m *memory) mark(ctx context.Context, s *wire.Stored) error {
	_, err := m.consumer.bus.core.JetStream.Publish(ctx, m.side.Address(s.Sequence).StartMark(m.life), nil, jetstream.WithExpectLastSequencePerSubject(0))
	if jserr.IsWrongLastSequence(err) {
		return nil // it is there
	}
	return err
}

// MarkEnded is of intake.Recovery. It does not wait for the server: a mark that stays does
// little harm, as the message is done.
func (m *memory) MarkEnded(d wire.Delivery) {
	body, err := json.Marshal(map[string]string{"filter": m.side.Address(d.Stored.Sequence).StartMark("*")})
	if err == nil {
		_ = m.consumer.bus.core.Link.Publish(&wire.Out{Subject: "$JS.API.STREAM.PURGE." + sidestream.RetryStream(m.consumer.stream), Data: body})
	}
}

// RecordHandback is of intake.Recovery. Without the note the messages are suspects, and
// their attempts forgotten.
func (m *memory) RecordHandback(ctx context.Context, ds []wire.Delivery) {
	ctx, done := m.consumer.bus.core.Bound(ctx)
	defer done()
	if slices.ContainsFunc(ds, func(d wire.Delivery) bool { return !d.Stored.Restored }) {
		_ = m.readNotes(ctx) // of other members
	}
	var all []givenBack
	for i := range ds {
		all = append(all, m.noteOf(&ds[i]))
	}
	all = append(all, m.unheeded()...)
	subject := m.side.Address(0).HandbackRecords()
	bodies := notesOf(all, m.consumer.bus.core.Link.MaxPayload()-besideNote)
	for _, body := range bodies {
		if _, err := m.consumer.bus.core.JetStream.Publish(ctx, subject, body); err != nil {
			return
		}
	}
	m.mu.Lock()
	m.wrote += len(bodies)
	keep := max(mostNotes, m.wrote)
	m.mu.Unlock()
	_ = m.side.Retries.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeKeep(uint64(keep)))
}

// notesOf is all in as few notes as have no more than so many bytes each.
func notesOf(all []givenBack, largest int) (bodies [][]byte) {
	var note []byte
	end := func() {
		if len(note) > 0 {
			bodies, note = append(bodies, append(note, ']')), nil
		}
	}
	for _, g := range all {
		one, err := json.Marshal(g)
		if err != nil {
			continue // no givenBack can fail
		}
		if len(note)+len(one)+len(",]") > largest {
			end()
		}
		separator := byte(',')
		if len(note) == 0 {
			separator = '['
		}
		note = append(append(note, separator), one...)
	}
	end()
	return bodies
}

// noteOf is what the next one is to know of d, with what is known of a message that has
// waited here without a handler.
func (m *memory) noteOf(d *wire.Delivery) givenBack {
	s := d.Stored
	g := givenBack{Source: s.Source, Position: s.SourceSequence, Deliveries: s.Deliveries, Attempts: max(s.Attempt-1, 0)}
	if p := m.consumer.retry; s.Dead != nil && p.causeOf(s.Dead) != CauseBehind { // what that one is behind may be gone by then
		g.Dead, g.Attempts = p.deadReason(d), s.Attempt
	}
	suspect := s.Isolation == wire.Alone
	if !s.Restored {
		before, noted := m.note(d)
		g.Attempts = max(g.Attempts, before.Attempts)
		suspect = s.Deliveries > 1 && (!noted || before.Deliveries+1 < s.Deliveries)
	}
	if suspect {
		g.Deliveries = 0
	}
	return g
}

// mostUnheeded is of how many messages a note says again what earlier ones said.
const mostUnheeded = 1000

// unheeded is what earlier notes say of failed attempts at messages that have not come
// since: those notes will be removed one day.
func (m *memory) unheeded() []givenBack {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []givenBack
	for _, g := range m.notes {
		if g.Attempts > 0 {
			all = append(all, g)
		}
	}
	slices.SortFunc(all, func(a, b givenBack) int { return cmp.Compare(b.Position, a.Position) })
	return all[:min(len(all), mostUnheeded)]
}

// MayRun is of intake.Recovery.
func (m *memory) MayRun(d wire.Delivery) (wait bool, barred error) {
	if !m.keys.any() {
		return false, nil
	}
	if m.ask(func(ctx context.Context) (err error) {
		wait, barred, err = m.keys.admit(ctx, &d)
		return err
	}) != nil {
		return true, nil
	}
	return wait, barred
}

// crashLoop is why a message is given up that has ended the process again and again.
type crashLoop struct{ times int }

func (e *crashLoop) Error() string {
	return fmt.Sprintf("bus: the process died %d times while this message was handled, and nothing beside it", e.times)
}
