package switchover

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/omnibus-go/bus/internal/testserver"
	"github.com/omnibus-go/bus/internal/wire"
)

// denied returns a connection of a user that may not publish to some subjects. The server has the
// streams A and B, with a mark of the way home.
func denied(t *testing.T, subjects ...string) jetstream.JetStream {
	t.Helper()
	target := testserver.New(t, testserver.WithJetStream, testserver.WithPort, func(o *server.Options) {
		o.Users = []*server.User{{Username: "all", Password: "x"}, {Username: "ann", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}}}
	})
	as := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(target.ClientURL(), nats.UserInfo(user, "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	for _, name := range []string{"A", "B"} {
		_, err := as("all").CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Storage: jetstream.MemoryStorage, Metadata: map[string]string{keyMark: "id", wire.KeyMoved: "id"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return as("ann")
}

// Whatever changes marked streams names what the server refuses. It does not try again and again.
func TestMarksThatMayNotBeChanged(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(context.Context, jetstream.JetStream) ([]string, error){
		"RemoveMarks": func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
			return RemoveMarks(ctx, js, []string{"A", "B"}, "id")
		},
		"MarkLeft": func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
			return MarkLeft(ctx, js, "id", []string{"A", "B"})
		},
		"GiveBack": func(ctx context.Context, js jetstream.JetStream) ([]string, error) {
			left, _, err := GiveBack(ctx, js, "id", map[string][]string{"A": {"a"}, "B": {"b"}})
			return left, err
		},
	} {
		for _, call := range []string{"INFO", "UPDATE"} {
			t.Run(what+" "+call, func(t *testing.T) {
				t.Parallel()
				js := denied(t, "$JS.API.STREAM."+call+".B")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				left, err := change(ctx, js)
				if !slices.Equal(left, []string{"B"}) || !isRefusal(err) || !strings.Contains(err.Error(), "$JS.API.STREAM."+call+".B") || ctx.Err() != nil {
					t.Errorf("left are %v: %v", left, err)
				}
			})
		}
	}
}

// An error of the server is named, too, when it does not get better in time.
func TestMarksThatCannotBeChanged(t *testing.T) {
	t.Parallel()
	js := denied(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	left, _, err := GiveBack(ctx, js, "id", map[string][]string{"A": {"B"}}) // the subject of the other stream
	if len(left) != 1 || err == nil || !strings.Contains(err.Error(), "subjects overlap") {
		t.Errorf("left are %v: %v", left, err)
	}
}
