package ownership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/wire"
)

// ErrLost is returned where somebody else has the claim, or nobody.
var ErrLost = errors.New("another process owns the durable now")

// Store reads and writes what is stored about one durable. Safe for concurrent use.
type Store struct {
	Names
	link *link.Link
}

// NewStore returns the store of a durable. Its stream must exist.
func NewStore(l *link.Link, n Names) *Store { return &Store{n, l} }

// Look returns the claim and its epoch, which is 0 when there never was one.
func (s *Store) Look(ctx context.Context) (Holder, uint64, error) {
	var h Holder
	data, epoch, err := s.last(ctx, s.claim())
	if err == nil && epoch > 0 {
		err = json.Unmarshal(data, &h)
	}
	return h, epoch, err
}

// Take makes h the owner, over the claim of an epoch, and returns the new epoch. It
// returns ErrLost when somebody was faster. It may be called again when its answer was
// lost.
func (s *Store) Take(ctx context.Context, h Holder, over uint64) (uint64, error) {
	epoch, err := s.write(ctx, s.claim(), encode(h), over)
	if err == nil {
		return epoch, nil
	}
	if has, now, look := s.Look(ctx); look == nil && now > over && has == h {
		return now, nil // by an earlier try
	}
	return 0, err
}

// Free gives the claim back.
func (s *Store) Free(ctx context.Context, member string, epoch uint64) error {
	_, err := s.write(ctx, s.claim(), encode(Holder{Member: member, Free: true}), epoch)
	return err
}

// Settled returns the last settle record.
func (s *Store) Settled(ctx context.Context) (Record, error) {
	var r Record
	data, sequence, err := s.last(ctx, s.settled())
	if err == nil && sequence > 0 {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

// Settle stores r if the claim is that of epoch, else it returns ErrLost.
func (s *Store) Settle(ctx context.Context, r Record, epoch uint64) error {
	_, err := s.write(ctx, s.settled(), encode(r), epoch)
	if !errors.Is(err, ErrLost) {
		return err
	}
	// A cluster refuses also while somebody tries to take the claim.
	if _, now, look := s.Look(ctx); look != nil || now == epoch {
		return errors.Join(errBusy, look)
	}
	return err
}

var errBusy = errors.New("the claim is being written")

// The server's error codes.
const (
	codeNoMessage         = 10037
	codeWrongLast         = 10071
	codeWrongLastConstant = 10164 // without the number that it has instead
)

type apiError struct {
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.Code) }

// write stores a message if the claim is that of epoch.
func (s *Store) write(ctx context.Context, subject string, body []byte, epoch uint64) (sequence uint64, err error) {
	out := &wire.Out{Subject: subject, Data: body, Header: wire.Header{
		wire.HeaderNatsExpectedLastSubjectSequence:        {strconv.FormatUint(epoch, 10)},
		wire.HeaderNatsExpectedLastSubjectSequenceSubject: {s.claim()},
	}}
	var answer struct {
		Error    *apiError `json:"error"`
		Sequence uint64    `json:"seq"`
	}
	if err := s.ask(ctx, out, &answer); err != nil {
		return 0, err
	}
	switch e := answer.Error; {
	case e != nil && slices.Contains([]int{codeWrongLast, codeWrongLastConstant}, e.Code):
		return 0, fmt.Errorf("%w: %w", ErrLost, e)
	case e != nil:
		return 0, e
	case answer.Sequence == 0:
		return 0, errors.New("not an acknowledgement of a stream")
	}
	return answer.Sequence, nil
}

// last returns the last message on a subject, with sequence 0 when there is none.
func (s *Store) last(ctx context.Context, subject string) (data []byte, sequence uint64, err error) {
	out := &wire.Out{Subject: "$JS.API.STREAM.MSG.GET." + StreamOf(s.Stream), Data: encode(map[string]string{"last_by_subj": subject})}
	var answer struct {
		Error   *apiError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := s.ask(ctx, out, &answer); err != nil {
		return nil, 0, err
	}
	if e := answer.Error; e != nil && e.Code != codeNoMessage {
		return nil, 0, e
	}
	return answer.Message.Data, answer.Message.Sequence, nil
}

func (s *Store) ask(ctx context.Context, out *wire.Out, answer any) error {
	reply, err := s.link.Request(ctx, out)
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("nobody answers for stream %s: %w", StreamOf(s.Stream), err)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(reply.Data, answer)
}
