package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/sidestream"
	"github.com/omnibus-go/bus/internal/wire"
)

// ErrLost says that the lease of an epoch is over.
var ErrLost = errors.New("another process owns the durable now")

// ErrUnknown says that nobody can say whether an outcome counts: a reply was lost, and then
// the lease.
var ErrUnknown = errors.New("the outcome may count or not: a reply was lost before another process became the owner of the durable")

// store reads and writes the two stored messages of one durable: the lease and the
// settle record. Its stream must exist. Safe for concurrent use.
type store struct {
	subjects
	link        *link.Link
	withReserve func(ctx context.Context, size int, send func() error) error // nil: there is no reserve
}

// inReserve calls send, which stores a message of size bytes, and uses the reserve of the
// server if it has no room.
func (s *store) inReserve(ctx context.Context, size int, send func() error) error {
	if s.withReserve == nil {
		return send()
	}
	return s.withReserve(ctx, size, send)
}

// readLease returns the lease and its epoch. The epoch is 0 if there never was a lease.
func (s *store) readLease(ctx context.Context) (lease, uint64, error) {
	data, epoch, err := s.read(ctx, s.lease())
	if err != nil || epoch == 0 {
		return lease{}, epoch, err
	}
	return parseLease(data), epoch, nil
}

// acquireLease writes l over the lease of an epoch and returns the new epoch. It returns
// ErrLost if another process was faster. It may be repeated when a reply was lost.
func (s *store) acquireLease(ctx context.Context, l lease, over uint64) (uint64, error) {
	epoch, err := s.write(ctx, s.lease(), encode(l), over)
	if err == nil {
		return epoch, nil
	}
	if stored, now, readErr := s.readLease(ctx); readErr == nil && now > over && stored == l {
		return now, nil // an earlier try wrote it
	}
	return 0, err
}

// releaseLease marks the lease of an epoch as free, so that others acquire it at once.
func (s *store) releaseLease(ctx context.Context, member string, epoch uint64) error {
	_, err := s.write(ctx, s.lease(), encode(lease{Member: member, Released: true}), epoch)
	return err
}

// remove removes the settle record and the lease of an epoch. It removes exactly the
// messages that were there while the lease had the epoch: a new durable with the same name
// may have others by now.
func (s *store) remove(ctx context.Context, epoch uint64) error {
	_, record, err := s.read(ctx, s.settleRecord())
	if err != nil {
		return err
	}
	if _, now, err := s.readLease(ctx); err != nil || now != epoch {
		return err
	}
	for _, sequence := range []uint64{record, epoch} {
		if sequence == 0 {
			continue
		}
		var reply struct {
			Error *jserr.Refusal `json:"error"`
		}
		out := &wire.Out{Subject: "$JS.API.STREAM.MSG.DELETE." + sidestream.KeysStream(s.stream), Data: encode(map[string]any{"seq": sequence, "no_erase": true})}
		if err := s.request(ctx, out, &reply); err != nil {
			return err
		}
	}
	return nil
}

// readSettleRecord returns the latest settle record. Its error is a *badRecordError if the
// record cannot be read.
func (s *store) readSettleRecord(ctx context.Context) (settleRecord, error) {
	data, sequence, err := s.read(ctx, s.settleRecord())
	if err != nil || sequence == 0 {
		return settleRecord{}, err
	}
	r, err := parseSettleRecord(data)
	r.sequence = sequence
	return r, err
}

// readSettled returns the latest settle record, and the epoch that the lease had before.
func (s *store) readSettled(ctx context.Context) (settleRecord, uint64, error) {
	if !s.link.Conn().IsConnected() {
		return settleRecord{}, 0, nats.ErrDisconnected
	}
	_, epoch, err := s.readLease(ctx)
	if err != nil {
		return settleRecord{}, 0, err
	}
	r, err := s.readSettleRecord(ctx)
	return r, epoch, err
}

// writeSettleRecord stores r if the lease still has the epoch, and returns its sequence. Else
// it returns ErrLost.
func (s *store) writeSettleRecord(ctx context.Context, r settleRecord, epoch uint64) (sequence uint64, err error) {
	sequence, err = s.write(ctx, s.settleRecord(), encode(r), epoch)
	if !errors.Is(err, ErrLost) {
		return sequence, err
	}
	// A cluster also refuses while another process tries to acquire the lease.
	if _, now, readErr := s.readLease(ctx); readErr != nil || now == epoch {
		return 0, errors.Join(errLeaseBusy, readErr)
	}
	return 0, err
}

var errLeaseBusy = errors.New("another process is writing the lease")

// write stores a message if the lease has the epoch, and returns its sequence. It returns
// ErrLost if the lease has another epoch.
func (s *store) write(ctx context.Context, subject string, body []byte, epoch uint64) (sequence uint64, err error) {
	out := &wire.Out{Subject: subject, Data: body, Header: wire.Header{
		wire.HeaderNatsExpectedLastSubjectSequence:        {strconv.FormatUint(epoch, 10)},
		wire.HeaderNatsExpectedLastSubjectSequenceSubject: {s.lease()},
	}}
	var reply struct {
		Error    *jserr.Refusal `json:"error"`
		Sequence uint64         `json:"seq"`
	}
	send := func() error {
		reply.Error = nil // of an earlier call
		if err := s.request(ctx, out, &reply); err != nil || reply.Error == nil {
			return err
		}
		return reply.Error
	}
	if err := s.inReserve(ctx, len(body), send); err != nil && reply.Error == nil {
		return 0, err
	}
	switch e := reply.Error; {
	case e != nil && jserr.IsWrongLastSequence(e):
		return 0, fmt.Errorf("%w: %w", ErrLost, e)
	case e != nil:
		return 0, e
	case reply.Sequence == 0:
		return 0, errors.New("the reply is not an acknowledgement of a stream")
	}
	return reply.Sequence, nil
}

// read returns the body of the last message on a subject, and its sequence. The sequence is 0
// if there is no message.
func (s *store) read(ctx context.Context, subject string) (body []byte, sequence uint64, err error) {
	out := &wire.Out{Subject: "$JS.API.STREAM.MSG.GET." + sidestream.KeysStream(s.stream), Data: encode(map[string]string{"last_by_subj": subject})}
	var reply struct {
		Error   *jserr.Refusal `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := s.request(ctx, out, &reply); err != nil {
		return nil, 0, err
	}
	if e := reply.Error; e != nil && e.Number != jserr.MessageNotFound {
		return nil, 0, e
	}
	return reply.Message.Data, reply.Message.Sequence, nil
}

// request sends out to the server and decodes its reply.
func (s *store) request(ctx context.Context, out *wire.Out, reply any) error {
	msg, err := s.link.Request(ctx, out)
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("no server responds for stream %s: %w", sidestream.KeysStream(s.stream), err)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(msg.Data, reply)
}
