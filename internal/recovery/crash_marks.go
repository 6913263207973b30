package recovery

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// CrashLoopError is the failure of a message that ended the process again and again.
type CrashLoopError struct{ Crashes int }

func (e *CrashLoopError) Error() string {
	return fmt.Sprintf("bus: the process died %d times while it handled this message and no other", e.Crashes)
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

// storeMark stores the crash mark of this run, unless it is stored already.
func (l *Log) storeMark(ctx context.Context, s *wire.Stored) error {
	subject := l.cfg.Store.Address(s.Sequence).StartMark(l.run)
	_, err := l.cfg.Core.JetStream.Publish(ctx, subject, nil, jetstream.WithExpectLastSequencePerSubject(0))
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
