package switchover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/link"
	"github.com/omnibus-go/bus/internal/plural"
	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
	"github.com/omnibus-go/bus/switchover"
)

// preflight looks for everything that is in the way. It changes nothing but probe streams,
// which it deletes, and what earlier switches left. Its error is a *switchover.ObstacleError, or
// why ctx has ended.
func (s *run) preflight(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, preflightLimit, errPreflight)
	defer cancel()
	s.check(limited)
	switch {
	case ctx.Err() != nil: // then questions had no answers
		return context.Cause(ctx)
	case len(s.obstacles) > 0:
		return &switchover.ObstacleError{Target: s.report.Target, Obstacles: s.obstacles}
	}
	return nil
}

// check looks for everything that is in the way.
func (s *run) check(ctx context.Context) {
	if s.Home != nil {
		s.obstacles = append(s.obstacles, s.Home.Obstacles...)
	}
	all, listed := s.listHere(ctx)
	if !listed {
		return
	}
	if s.infos = all; s.Home != nil {
		ours := s.Home.Streams()
		s.infos = slices.DeleteFunc(slices.Clone(all), func(i *jetstream.StreamInfo) bool { return !slices.Contains(ours, i.Config.Name) })
	}
	s.describe()
	if s.Home != nil {
		s.checkHome(ctx, all)
	} else {
		s.checkClients(ctx)
	}
	if s.checkServer() && s.checkNames(ctx) {
		s.removeLeftovers(ctx)
		s.checkReplicas(ctx)
		s.checkLimits(ctx)
		s.checkPermissions(ctx)
	}
	for _, info := range s.infos {
		s.checkStream(info)
	}
	s.planLive()
}

// found records an obstacle, once.
func (s *run) found(stream, reason, remedy string) {
	if o := (switchover.Obstacle{Stream: stream, Reason: reason, Remedy: remedy}); !slices.Contains(s.obstacles, o) {
		s.obstacles = append(s.obstacles, o)
	}
}

// remedy returns there, or on the way home the other text: what to do about a limit of the embedded
// server.
func (s *run) remedy(there, home string) string {
	if s.Home != nil {
		return home
	}
	return there
}

// describe enters the streams into the report.
func (s *run) describe() {
	s.report.Streams, s.report.Messages = nil, 0
	for _, info := range s.infos {
		s.report.Streams = append(s.report.Streams, info.Config.Name)
		s.report.Messages += info.State.Msgs
	}
	slices.Sort(s.report.Streams)
}

// checkClients looks for clients that would stay behind.
func (s *run) checkClients(ctx context.Context) {
	if s.Linked {
		s.found("", "the embedded server is connected to other servers, as a node of a cluster or by a leaf link; their clients would go on to write to the old streams",
			"start the bus without a cluster and without a leaf link, and switch then")
	}
	if n := s.otherClients(ctx); n > 0 {
		s.found("", ClientsText(n, s.Bus.DescribeClients())+", and would go on to write to the old streams",
			"disconnect them, or connect them to the target when the switch is done")
	}
}

// maxDescribed is how many clients a text describes.
const maxDescribed = 5

// ClientsText says how many other clients are connected to the port of a bus, and which.
func ClientsText(n int, described []string) string {
	text := plural.Of(n, "other client is", "other clients are") + " connected to the port of this bus"
	if more := len(described) - maxDescribed; more > 0 {
		described = append(slices.Clone(described[:maxDescribed]), fmt.Sprintf("and %d more", more))
	}
	if len(described) > 0 {
		text += " (" + strings.Join(described, "; ") + ")"
	}
	return text
}

// apiLevel is what a target needs to restore a snapshot with everything that is in it.
const apiLevel = 5

// checkServer looks at the server that the connection leads to. It returns false if more
// questions make no sense.
func (s *run) checkServer() bool {
	has, level := s.Target.ConnectedServerJetStream()
	switch {
	case !has:
		s.found("", "JetStream is off at the target", "turn it on, or use the URL of a server that has it")
		return false
	case level < apiLevel:
		s.tooOld = true
		s.found("", fmt.Sprintf("the target is nats-server %s, which cannot restore everything that is in a snapshot", s.Target.ConnectedServerVersion()),
			"update its servers to 2.15 or newer")
	}
	if here, there := s.Source.MaxPayload(), s.Target.MaxPayload(); there < here {
		s.found("", fmt.Sprintf("the target accepts messages of %d bytes, and this bus of %d", there, here),
			s.remedy(fmt.Sprintf("set its max_payload to %d", here), fmt.Sprintf("start the bus with WithMaxPayload(%d)", here)))
	}
	return true
}

// checkNames looks for streams at the target that have a name or a subject of ours. It returns
// false if no answer can arrive, so that more questions make no sense.
func (s *run) checkNames(ctx context.Context) bool {
	ctx, end := s.question(ctx)
	defer end()
	there, err := streams(ctx, s.Target)
	if silent, ok := errors.AsType[*silentError](err); ok && !slices.ContainsFunc(silent.names, s.needsName) {
		s.warn("at the target %v; if one of these streams stores a subject of this bus, the switch fails and goes back", err)
		err = nil
	}
	if err != nil {
		remedy := silentRemedy
		if _, silent := errors.AsType[*silentError](err); silent {
			remedy = leaderlessRemedy
		}
		s.failedAt("the streams of the target cannot be listed", err, remedy)
		refused, isRefused := errors.AsType[*link.RefusedError](err)
		return !isRefused || refused.Publish
	}
	for _, other := range there {
		if s.Stale != "" && other.Config.Metadata[keyMark] == s.Stale {
			s.stale = append(s.stale, other.Config.Name)
			continue
		}
		if s.Left != "" && other.Config.Metadata[wire.KeyMoved] == s.Left {
			s.left = append(s.left, other.Config.Name)
			continue
		}
		if forgotten(other) {
			s.probes = append(s.probes, other.Config.Name)
			continue
		}
		if slices.Contains(s.NewStreams, other.Config.Name) {
			s.found(other.Config.Name, "the target has a stream with this name, and consumers with keys need one there", deleteOther)
		}
		for _, own := range s.infos {
			s.compareNames(own, other)
		}
	}
	return true
}

// The names of probe streams begin with these.
const (
	replicaProbe = "omnibus-probe-"
	roomProbe    = "omnibus-room-"
)

// forgotten reports whether a stream is the probe of a switch that was killed. Others are gone
// sooner.
func forgotten(other *jetstream.StreamInfo) bool {
	name := other.Config.Name
	return (strings.HasPrefix(name, replicaProbe) || strings.HasPrefix(name, roomProbe)) && other.State.Msgs == 0 &&
		time.Since(other.Created) > 2*preflightLimit
}

// removeLeftovers deletes what earlier switches left, since it takes room. A dry run only
// reads.
func (s *run) removeLeftovers(ctx context.Context) {
	if s.DryRun {
		return
	}
	s.removeMarked(ctx, s.stale, keyMark, s.Stale, "the copies that an earlier switch left")
	s.removeMarked(ctx, s.left, wire.KeyMoved, s.Left, "what the switch home has left there")
	for _, name := range s.probes {
		s.deleteProbe(ctx, name)
	}
}

// removeMarked deletes streams of the target that have a mark. what they are is part of a text.
func (s *run) removeMarked(ctx context.Context, names []string, key, mark, what string) {
	ctx, end := s.question(ctx)
	defer end()
	left, err := failing(names, func(name string) error { return removeIfMarked(ctx, s.targetJS, name, key, mark) })
	if err != nil {
		s.failedAt(fmt.Sprintf("%s cannot be deleted: %v", what, left), err, "delete them, and see why they cannot be deleted")
	}
}

func (s *run) compareNames(own, other *jetstream.StreamInfo) {
	name := own.Config.Name
	moved, committed := wire.Moved(other.Config.Metadata)
	switch both := overlap(own.Config.Subjects, other.Config.Subjects); {
	case other.Config.Name == name && other.Config.Metadata[keyMark] != "":
		s.found(name, "the target has an unfinished copy with this name, of another switch", "wait for that switch, or delete the copy if no switch is under way")
	case other.Config.Name == name && moved && !committed:
		s.found(name, "the target has a stream with this name that another switch is taking home, or was interrupted", underWay)
	case other.Config.Name == name && moved:
		s.found(name, "the target has what a switch home left of a stream with this name", "delete it there if this bus, or another one, has its messages")
	case other.Config.Name == name:
		s.found(name, "the target has a stream with this name", deleteOther)
	case both != "":
		s.found(name, fmt.Sprintf("stream %q of the target stores %q, too", other.Config.Name, both), "change the subjects of one of the two")
	}
}

// needsName reports whether the target must have no stream with a name.
func (s *run) needsName(name string) bool {
	return slices.Contains(s.NewStreams, name) || slices.ContainsFunc(s.infos, func(i *jetstream.StreamInfo) bool { return i.Config.Name == name })
}

// deleteOther is what to do about a stream of the target that has the name of one here.
const deleteOther = "no server can rename a stream: delete the one at the target if nobody needs it; if somebody does, copy it to a stream of another name that has it as a source, and delete it then, or switch to another account of the target"

// overlap returns a pattern of a that overlaps with one of b, or "".
func overlap(a, b []string) string {
	for _, x := range a {
		if slices.ContainsFunc(b, func(y string) bool { return subject.Overlap(x, y) }) {
			return x
		}
	}
	return ""
}

// checkReplicas finds out how many replicas the target makes, with a probe stream, and
// whether each URL leads to the same streams.
func (s *run) checkReplicas(ctx context.Context) {
	s.report.Replicas = 1
	if s.Target.ConnectedClusterName() != "" {
		s.report.Replicas = 3
	}
	probe := jetstream.StreamConfig{Name: replicaProbe + s.ID, Subjects: []string{"$OMNIBUS.probe." + s.ID},
		Storage: jetstream.MemoryStorage, Replicas: s.report.Replicas, MaxBytes: 1} // some accounts require MaxBytes
	err := s.createProbe(ctx, probe)
	if jserr.Is(err, jserr.ReplicasUnsupported) { // a single server may have the name of a cluster
		s.report.Replicas, probe.Replicas = 1, 1
		err = s.createProbe(ctx, probe)
	}
	if err != nil {
		s.failedAt(fmt.Sprintf("the target does not create a stream with %d replicas", s.report.Replicas), err, s.probeRemedy(err))
		return
	}
	defer s.deleteProbe(ctx, probe.Name)
	for _, u := range s.URLs {
		s.checkURL(ctx, u, probe.Name)
	}
}

// probeRemedy says what to do if the target creates no probe stream.
func (s *run) probeRemedy(err error) string {
	switch {
	case jserr.Is(err, jserr.TooManyStreams) || isFull(err):
		return s.remedy("raise the limits of its account, or make room there", "make room on the disk, or raise WithMaxStore or WithMaxMemory")
	case s.report.Replicas > 1:
		return "wait until all servers of the cluster are up and it has a leader; it needs three with JetStream"
	case errors.Is(err, errQuestion):
		return silentRemedy
	}
	return "see what its log says of that"
}

func (s *run) createProbe(ctx context.Context, probe jetstream.StreamConfig) error {
	ctx, end := s.question(ctx)
	defer end()
	_, err := s.targetJS.CreateStream(ctx, probe)
	for try := 1; try < 5 && storeFailed(err) && sleep(ctx, 20*time.Millisecond) == nil; try++ {
		_, err = s.targetJS.CreateStream(ctx, probe)
	}
	return because(ctx, err)
}

// storeFailed reports whether a server could not make the folder of a stream. A server that
// has just deleted its last stream removes the folder of all streams a moment later, also
// under the next one.
func storeFailed(err error) bool { return jserr.Is(err, jserr.StreamCreateFailed) }

func (s *run) deleteProbe(ctx context.Context, name string) {
	ctx, end := s.question(ctx)
	defer end()
	if err := because(ctx, s.targetJS.DeleteStream(ctx, name)); err != nil {
		s.failedAt(fmt.Sprintf("the target does not delete the probe stream %s", name), err, "delete it, and see why it cannot be deleted")
	}
}

// checkURL finds out whether a URL leads to a server that has the probe stream.
func (s *run) checkURL(ctx context.Context, u, probe string) {
	nc, err := s.Dial(u)
	if err != nil {
		s.warn("%s cannot be reached: %v", s.Redact(u), err)
		return
	}
	defer nc.Close()
	nc.SetErrorHandler(s.onRefusal)
	ctx, end := s.question(ctx)
	defer end()
	js, err := jetstream.New(nc)
	if err == nil {
		_, err = js.Stream(ctx, probe)
	}
	switch err = because(ctx, err); {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		s.found("", fmt.Sprintf("%s leads to other streams than the first URL that was reached", s.Redact(u)), "give URLs of the servers of one cluster, with one account")
	case isRefusal(err):
		s.failedAt("streams cannot be looked up at the target", err, "")
	case err != nil:
		s.warn("%s does not answer: %v", s.Redact(u), err)
	}
}

// checkStream looks for what a target refuses to restore.
func (s *run) checkStream(info *jetstream.StreamInfo) {
	c := &info.Config
	if c.PersistMode == jetstream.AsyncPersistMode && s.report.Replicas > 1 {
		s.found(c.Name, "it is persisted asynchronously, which no stream with replicas can be", "create it without PersistMode")
	}
	if c.Placement != nil && len(c.Placement.Tags) > 0 {
		s.found(c.Name, "it is placed by tags", "remove its Placement")
	}
	sources := slices.Clone(c.Sources)
	if c.Mirror != nil {
		sources = append(sources, c.Mirror)
	}
	for _, source := range sources {
		if source.External != nil && strings.Contains(source.External.APIPrefix, "."+s.Domain+".") {
			s.found(c.Name, fmt.Sprintf("it copies stream %q of this server by the name of its JetStream domain", source.Name), "leave External out of that source")
		}
	}
}

// leaveLimit is how long a server may take to notice that a client has left.
const leaveLimit = 500 * time.Millisecond

// otherClients returns how many clients stay connected to the old server. Those of an attempt
// that has just failed may not be gone yet.
func (s *run) otherClients(ctx context.Context) (n int) {
	ctx, cancel := context.WithTimeout(ctx, leaveLimit)
	defer cancel()
	for {
		n, _ = s.Bus.OtherClients()
		if n == 0 || ctx.Err() != nil {
			return n
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
