package bus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
	"github.com/omnibus-go/bus/bustest"
)

// Everybody may ask for the statistics of a service, so an error that is not
// public is not in them either.
func TestServiceStatisticsKeepSecrets(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	_, err := bus.Respond(b, "secrets", func(_ context.Context, m *bus.Msg[string]) (string, error) {
		if m.Data == "public" {
			return "", bus.Public("404", "no such thing")
		}
		return "", errors.New("the password is swordfish")
	})
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{"public": "no such thing (404)", "private": "internal error (500)"} {
		if _, err := bus.Request[string](t.Context(), b, "secrets", request); err == nil {
			t.Fatal("no error")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stats, err := b.Conn().RequestWithContext(ctx, "$SRV.STATS", nil)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(stats.Data); !strings.Contains(text, want) || strings.Contains(text, "swordfish") {
			t.Errorf("after a %s error the statistics are %s, want %q in them and no password", request, text, want)
		}
	}
}
