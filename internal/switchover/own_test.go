package switchover

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/switchover"
)

// newCluster starts a cluster of three servers and returns a connection to it.
func newCluster(t *testing.T) *nats.Conn {
	t.Helper()
	if strconv.IntSize < 64 {
		t.Skip("SKIPPED: nats-server cannot run a node of a cluster on a 32-bit system")
	}
	ports := testserver.FreePorts(t, 3)
	var last *server.Server
	for i, port := range ports {
		o := &server.Options{ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}}
		for _, other := range slices.Delete(slices.Clone(ports), i, i+1) {
			o.Routes = append(o.Routes, server.RoutesFromStr(fmt.Sprintf("nats://127.0.0.1:%d", other))...)
		}
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.WaitForShutdown)
		t.Cleanup(s.Shutdown)
		s.Start()
		last = s
	}
	if !last.ReadyForConnections(10 * time.Second) {
		t.Fatal("a server of the cluster does not start")
	}
	nc, err := nats.Connect(last.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// eventuallyMakes waits until a cluster that has just started makes streams.
func eventuallyMakes(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ready", Replicas: 3})
		cancel()
		if err == nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatal(err)
		}
		if err := sleep(t.Context(), 10*pollPause); err != nil {
			t.Fatal(err)
		}
	}
}

// A restore that has got nothing yet has its name, and no stream that answers. The next attempt
// of the same switch gets the name, and nothing is left in the end. A switch that begins meanwhile
// says that it has no leader, and cannot go on if it needs the name.
func TestRestoreToAClusterThatHasAnEarlierOne(t *testing.T) {
	t.Parallel()
	s, info := newClusterRun(t)
	s.infos = nil
	begin := func() error {
		c, err := s.newCopier("S")
		if err != nil {
			return err
		}
		defer c.close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = c.begin(ctx, info)
		return err
	}
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	s.checkNames(t.Context())
	if want := "at the target no leader answers for [S]; if one"; len(s.obstacles) > 0 || len(s.report.Warnings) != 1 || !strings.HasPrefix(s.report.Warnings[0], want) {
		t.Errorf("for a switch of other streams the obstacles are %v, the warnings %q", s.obstacles, s.report.Warnings)
	}
	s.infos = []*jetstream.StreamInfo{info}
	s.checkNames(t.Context())
	if want := []switchover.Obstacle{{Reason: "the streams of the target cannot be listed: no leader answers for [S]", Remedy: leaderlessRemedy}}; !slices.Equal(s.obstacles, want) {
		t.Errorf("the obstacles are %v", s.obstacles)
	}
	s.mustComeHomeWithout(t, "S", "ready")
	if err := begin(); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
	if err := s.removeOne(t.Context(), "S"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.targetJS.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Replicas: 3}); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
}

// mustComeHomeWithout has the stream ours of the target come home. A stream that stays and has no leader is
// no obstacle, and nobody waits for it.
func (s *run) mustComeHomeWithout(t *testing.T, silent, ours string) {
	t.Helper()
	home := &run{Config: Config{Source: s.Target, Home: &Home{Streams: func() []string { return []string{ours, ours + "-dead", ours} }}}, sourceJS: s.targetJS}
	all, listed := home.listHere(t.Context())
	if want := fmt.Sprintf("no leader answers for these streams, which stay: [%s]", silent); !listed || len(home.obstacles) > 0 || len(home.report.Warnings) != 1 || !strings.HasPrefix(home.report.Warnings[0], want) {
		t.Errorf("the obstacles are %v, the warnings %q", home.obstacles, home.report.Warnings)
	}
	if named := func(i *jetstream.StreamInfo) bool { return i.Config.Name == ours }; !slices.ContainsFunc(all, named) {
		t.Errorf("%s is not in the list", ours)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a list takes 4 s
	defer cancel()
	if infos, err := home.sources(ctx); err != nil || len(infos) != 1 || infos[0].Config.Name != ours {
		t.Errorf("the streams that come home are %v, %v", infos, err)
	}
}
