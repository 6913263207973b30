package jsapi_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/jsapi"
	"github.com/omnibus-go/bus/internal/leakcheck"
	"github.com/omnibus-go/bus/internal/testserver"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }

// The subjects of a large stream take a slow cluster longer than one answer may take.
func TestSubjectsOfASlowCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testserver.New(t, func(o *server.Options) { o.Cluster.Name = "slow" })
		nc := s.Conn(t)
		_, err := nc.Subscribe("$JS.API.STREAM.INFO.S", func(m *nats.Msg) {
			rest := `"state":{}}`
			if strings.Contains(string(m.Data), "subjects_filter") {
				time.Sleep(4 * time.Second)
				rest = `"total":1,"state":{"subjects":{"s.a":1}}}`
			}
			_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.stream_info_response","config":{"name":"S"},` + rest))
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := nc.FlushWithContext(ctx); err != nil { // another connection asks
			t.Fatal(err)
		}
		l := s.Link(t)
		if !l.Clustered() {
			t.Fatal("the server is in no cluster")
		}
		js, err := jsapi.New(l, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		st, err := js.Stream(ctx, "S")
		if err != nil {
			t.Fatal(err)
		}
		info, err := st.Info(ctx, jetstream.WithSubjectFilter(">"))
		if err != nil || info.State.Subjects["s.a"] != 1 {
			t.Errorf("got %+v, %v", info, err)
		}
	})
}
