package switchover

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/omnibus-go/bus/internal/dedup"
	"github.com/omnibus-go/bus/switchover"
)

// Bus is what a bus does for its switch. Run calls one method at a time.
type Bus interface {
	// OtherClients returns how many clients that are not of this bus are connected to the old
	// server, and how many clients have ever been connected to it.
	OtherClients() (now int, ever uint64)
	// DescribeClients describes these clients, one by one, as far as the old server knows.
	DescribeClients() []string

	// Journal records that copies of these streams may be at the target from now on.
	Journal(streams []string) error
	// HoldConsumers has the consumers of these streams take nothing more, until Release or
	// Return, and waits until everything that the server has sent them has arrived. All
	// else goes on.
	HoldConsumers(ctx context.Context, streams []string) error
	// Hold has publishers, new requests and consumers wait, until everything that was
	// published has its outcome and the server sends nothing more to consumers.
	Hold(ctx context.Context) error
	// Cut ends the connection of the bus to the old server. The server has processed all
	// that was sent when it returns nil.
	Cut(ctx context.Context) error
	// Commit records that the streams are at the target, and the message IDs that they know
	// there no more. After an error they are not there.
	Commit(ids *dedup.IDs) error
	// Connect leads the connection to the target. When ctx ends first, that goes on.
	Connect(ctx context.Context) error
	// Release ends Hold at the new server, but not for calls that ask it and change streams: those
	// go on with ReleaseCalls. It does not wait for anything. From now on the bus
	// answers for the message IDs of Commit.
	Release(ctx context.Context)
	// ReleaseCalls ends the rest of Hold.
	ReleaseCalls()
	// Settle does what publishers need not wait for. It stops the old server.
	Settle(ctx context.Context)

	// Return leads the connection back to the old server, if it was cut, and ends Hold.
	Return(ctx context.Context) error
	// Abort removes the journal. It is called after Return, when no copies are left.
	Abort() error
}

// Config describes a switch.
type Config struct {
	Bus    Bus
	Source *nats.Conn // to the old server; for this switch alone
	Target *nats.Conn // to the new one

	URLs   []string                             // of the target, each with its credentials
	Dial   func(url string) (*nats.Conn, error) // connects to one of them
	Redact func(url string) string              // removes credentials
	Report switchover.Report                    // to begin with: the target

	NewStreams []string // that are made at the target after the switch
	Left       string   // the switch that took streams away from the target; what it left there does not count
	Home       *Home    // nil unless the streams come home

	ID       string        // marks the copies of this switch
	Stale    string        // marks those of an earlier one, which do not count; empty for none
	Domain   string        // the JetStream domain of the old server
	Linked   bool          // the old server is connected to other servers
	DryRun   bool          // only look for obstacles
	MaxWait  time.Duration // from Hold to Commit
	CopyRate int           // bytes that are copied before the hold, per second; 0 for no limit
	Progress func(switchover.Progress)
}

const (
	preflightLimit = 30 * time.Second       // all checks together
	questionLimit  = 6 * time.Second        // one of them; servers wait 4 s for each other
	returnLimit    = 5 * time.Second        // the way back
	removeLimit    = 3 * time.Second        // then the deletion of copies
	removeMore     = 20 * time.Millisecond  // for each of them
	connectLimit   = 5 * time.Second        // publishers wait no longer for the connection to the target
	unmarkLimit    = time.Second            // calls that ask the server wait for it
	settleLimit    = 30 * time.Second       // of replicas that answer; nobody waits for them but the caller of SwitchTo
	pollLimit      = 200 * time.Millisecond // one question to a stream, which may have no leader
	pollPause      = 3 * time.Millisecond
	maxLive        = 4  // large streams at a time that are copied before the hold
	maxParallel    = 16 // streams at a time otherwise: a cluster takes most of that time to elect their leaders
)
