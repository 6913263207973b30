package storedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Move is the move of all streams of a directory to another server.
//
// States: none → begun ([Dir.BeginMove] writes the journal) → moved ([Dir.CommitMove] raises
// the format of the identity). From begun back to none: [Dir.EndMove]. While a move has begun
// the streams of the directory count, and the target may have copies that do not. Once it is
// moved those at the target count. The state changes by the replacement of one file, so a
// crash or a power cut leaves the one state or the other.
type Move struct {
	// ID is random. Copies at the target are marked with it until the move is complete.
	ID string `json:"id"`
	// Target is the URL of the other server, without credentials.
	Target string `json:"target"`
	// Streams are the streams that are moved.
	Streams []string `json:"streams"`
	// At is when the move began, in UTC.
	At time.Time `json:"at"`
	// Home says that the streams come from the target, see [OpenHome].
	Home bool `json:"home,omitempty"`
	// Subjects are those of the streams at the target, while others must not store there.
	Subjects map[string][]string `json:"subjects,omitempty"`
}

// MovedError is the error of [Open] for a directory whose streams were moved.
type MovedError struct {
	// Dir is the absolute path of the directory.
	Dir string
	// Move says where to.
	Move Move
}

// Error implements error.
func (e *MovedError) Error() string {
	return fmt.Sprintf("bus: the streams of store directory %q were moved to %s at %s: what is in it is old",
		e.Dir, e.Move.Target, e.Move.At.Format(time.RFC3339))
}

// BeginMove writes the journal of a move. When it returns nil, the journal is on the disk. It
// refuses what could not be read again.
func (d *Dir) BeginMove(m Move) error {
	if err := m.check(); err != nil {
		return err
	}
	return writeJSON(d.path, journalName, m)
}

// EndMove removes the journal of a move that was given up. There need not be one.
func (d *Dir) EndMove() error {
	if d.identity.Moved == nil { // else the message IDs are those of the move by which the streams left
		_ = remove(d.file(idsName)) // a rest does no harm: it belongs to no other move
	}
	err := remove(d.file(journalName))
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		return &AccessError{Dir: d.path, Op: "remove " + journalName, Err: err}
	}
	return nil
}

// KeepIDs writes the message IDs that the streams know here, for the time after the move. It
// comes before [Dir.CommitMove]. When it returns nil, they are on the disk.
func (d *Dir) KeepIDs(data []byte) error {
	if err := writeFile(d.file(idsName), data); err != nil {
		return &AccessError{Dir: d.path, Op: "write " + idsName, Err: err}
	}
	return nil
}

// KeptIDs returns what [Dir.KeepIDs] has written, at most limit bytes, or nil if there is
// nothing. It does not lock dir.
func KeptIDs(dir string, limit int64) ([]byte, error) {
	data, err := readSmall(filepath.Join(dir, idsName), limit)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &AccessError{Dir: dir, Op: "read " + idsName, Err: err}
	}
	return data, nil
}

// RemoveIDs removes what [Dir.KeepIDs] has written. There need not be anything. It does not lock
// dir.
func RemoveIDs(dir string) error {
	if err := remove(filepath.Join(dir, idsName)); err != nil {
		return &AccessError{Dir: dir, Op: "remove " + idsName, Err: err}
	}
	return nil
}

// ErrUndecided is returned by [Dir.CommitMove] together with other errors if nobody knows
// whether a crash would leave the streams here or at the target.
var ErrUndecided = errors.New("it is not known where a restart would look for the streams")

// CommitMove records that the streams are at the target now. When it returns nil, that is on
// the disk, and Open refuses the directory from now on. After an error the streams are in the
// directory, also after a crash, unless the error is ErrUndecided.
func (d *Dir) CommitMove(m Move) error {
	id := d.identity
	id.Format, id.Moved = max(id.Format, FormatMoved), &m
	return d.commit(id)
}

// commit replaces the identity, and ends the journal, unless that is of the way home.
func (d *Dir) commit(id Identity) error {
	err := writeJSON(d.path, identityName, id)
	if err == nil {
		d.identity = id
		if id.Moved != nil {
			_ = remove(d.file(journalName)) // the identity says it now; a rest does no harm
		}
		return nil
	}
	if _, undecided := errors.AsType[*undecidedError](err); !undecided {
		return err
	}
	if worse := writeJSON(d.path, identityName, d.identity); worse != nil {
		d.undecided = true
		return errors.Join(ErrUndecided, err, worse)
	}
	return err
}

// Begun returns the move that had begun and was not finished when the last process ended.
// ok is false if there is none.
func (d *Dir) Begun() (m Move, ok bool, err error) {
	m, ok, err = readJournal(d.path)
	return m, ok && !d.identity.cameHome(m), err
}

// readJournal reads the journal of a move. ok is false if there is none.
func readJournal(path string) (m Move, ok bool, err error) {
	file := filepath.Join(path, journalName)
	raw, err := readSmall(file, maxIdentity)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Move{}, false, nil
	case errors.Is(err, errTooLarge):
		return Move{}, false, &CorruptError{File: file, Err: err}
	case err != nil:
		return Move{}, false, &AccessError{Dir: path, Op: "read " + journalName, Err: err}
	}
	m, err = parseMove(file, raw)
	return m, err == nil, err
}

// parseMove reads the journal of a move. It fails with a [*CorruptError].
func parseMove(file string, raw []byte) (m Move, err error) {
	if err = json.Unmarshal(raw, &m); err != nil {
		err = shortError(err)
	} else {
		err = m.check()
	}
	if err != nil {
		return Move{}, &CorruptError{File: file, Err: err}
	}
	return m, nil
}

const (
	maxTarget  = 4 << 10 // bytes of a list of URLs
	maxSubject = 4 << 10 // bytes; servers take no line that is longer
)

// check returns an error if a stored move has a text that this package does not write. The
// texts get into errors and requests.
func (m *Move) check() error {
	switch {
	case nameProblem(m.ID) != "":
		return fmt.Errorf("the id of the move, %.64q, %s", m.ID, nameProblem(m.ID))
	case len(m.Target) > maxTarget || strings.ContainsFunc(m.Target, isUnprintable):
		return fmt.Errorf("the target of the move, %.64q, is no URL", m.Target)
	}
	for _, name := range m.Streams {
		if problem := nameProblem(name); problem != "" {
			return fmt.Errorf("the stream %.64q of the move %s", name, problem)
		}
	}
	return m.checkSubjects()
}

// checkSubjects checks the subjects of streams, which a cluster gets back.
func (m *Move) checkSubjects() error {
	for name, subjects := range m.Subjects {
		if problem := nameProblem(name); problem != "" {
			return fmt.Errorf("the stream %.64q of the move %s", name, problem)
		}
		for _, subject := range subjects {
			if len(subject) > maxSubject || strings.ContainsFunc(subject, isUnprintable) {
				return fmt.Errorf("the subject %.64q of stream %.64q in the move has more than %d bytes, or what cannot be printed", subject, name, maxSubject)
			}
		}
	}
	return nil
}

// MovedTo returns where the streams of dir were moved to, or where those are that were coming
// home when the last process ended. ok is false if they were not moved, and if nothing in dir
// says so; [Open] finds out what is wrong with it then. It does not lock dir.
func MovedTo(dir string) (m Move, ok bool) {
	path, id, err := readIdentity(dir)
	if err != nil {
		return Move{}, false
	}
	if id.Moved != nil {
		return *id.Moved, true
	}
	m, ok, err = wayHome(path, id)
	return m, ok && err == nil
}

// CameHome returns the move by which the streams of a directory came home, if they are there.
func CameHome(dir string) (m Move, ok bool) {
	_, id, err := readIdentity(dir)
	if err != nil || id.Moved != nil || id.Home == nil {
		return Move{}, false
	}
	return *id.Home, true
}
