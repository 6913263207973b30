package bus_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
	"github.com/omnibus-go/bus/health"
)

// Credentials of the environment are for whichever server the options name in the
// end, and for none where there is none.
func TestFromEnvCredentials(t *testing.T) {
	byToken := bustest.New(t, anyPort(), bus.WithServerOptions(func(o *server.Options) { o.Authorization = "s3cret" }))
	byUser := bustest.New(t, anyPort(), bus.WithLogger(silent()), bus.WithServerOptions(func(o *server.Options) { o.Username, o.Password = "ann", "s3cret" }))
	token, user := map[string]string{"TOKEN": "s3cret"}, map[string]string{"USER": "ann", "PASSWORD": "s3cret"}
	for _, tc := range []struct {
		name     string
		vars     map[string]string
		opts     []bus.Option
		embedded bool
	}{
		{"URL before", token, []bus.Option{bus.WithURL(byToken.ClientURL()), bus.FromEnv()}, false},
		{"URL after", token, []bus.Option{bus.FromEnv(), bus.WithURL(byToken.ClientURL())}, false},
		{"URL from the environment", map[string]string{"TOKEN": "s3cret", "URL": byToken.ClientURL()}, []bus.Option{bus.FromEnv()}, false},
		{"URL taken back", map[string]string{"TOKEN": "s3cret", "URL": byToken.ClientURL()}, []bus.Option{bus.FromEnv(), bus.WithURL("")}, true},
		{"no URL", token, []bus.Option{bus.FromEnv()}, true},
		{"user, URL after", user, []bus.Option{bus.FromEnv(), bus.WithURL(byUser.ClientURL())}, false},
		{"user, no URL", user, []bus.Option{bus.FromEnv()}, true},
		{"an absent file, no URL", map[string]string{"CREDENTIALS": "/no/such/file"}, []bus.Option{bus.FromEnv()}, true},
		{"a password alone, no URL", map[string]string{"PASSWORD": "s3cret"}, []bus.Option{bus.FromEnv()}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environment(t, tc.vars)
			for _, opts := range [][]bus.Option{tc.opts, append(slices.Clone(tc.opts), bus.WithName("x"))} {
				b, err := quietBus(opts...)
				must(t, err)
				if r := b.Health(t.Context()); r.Status == health.Failed || r.Embedded != tc.embedded {
					t.Errorf("got %+v", r)
				}
				must(t, b.Close())
			}
		})
	}
	t.Run("Connect", func(t *testing.T) {
		environment(t, token)
		b, err := bus.Connect(t.Context(), byToken.ClientURL(), bus.FromEnv(), bus.WithLogger(silent()))
		must(t, err)
		must(t, b.Close())
	})
}

// What is wrong with them is told when there is a server to use them for.
func TestFromEnvBadCredentials(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		says        []string
	}{
		{"PASSWORD", "s3cret", []string{"OMNIBUS_PASSWORD", "no effect without OMNIBUS_USER"}},
		{"CREDENTIALS", "/no/such/file", []string{"/no/such/file", "OMNIBUS_CREDENTIALS"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			environment(t, map[string]string{tc.name: tc.value})
			for _, opts := range [][]bus.Option{
				{bus.FromEnv(), bus.WithURL("nats://127.0.0.1:1")}, {bus.WithURL("nats://127.0.0.1:1"), bus.FromEnv()},
			} {
				_, err := quietBus(opts...)
				asError[*bus.OptionError](t, err, tc.says...)
			}
		})
	}
	// An option of the program's own without a server is a mistake, as ever.
	_, err := quietBus(bus.FromEnv(), bus.WithToken("x"))
	asError[*bus.OptionError](t, err, "WithToken", "add WithURL")
}
