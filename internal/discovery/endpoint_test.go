package discovery

import (
	"testing"
	"time"
)

func TestName(t *testing.T) {
	t.Parallel()
	for subj, want := range map[string]string{
		"shop.quotes.get.v1": "shop_quotes_get_v1", "a.*.>": "a_x_X", "größe-1": "gr__e-1",
	} {
		if got := name(subj); got != want {
			t.Errorf("%s: %s, want %s", subj, got, want)
		}
	}
}

func TestAverageOfNoRequests(t *testing.T) {
	t.Parallel()
	for requests, want := range map[int]time.Duration{0: 0, 2: time.Second} {
		e := &Endpoint{Subject: "a", Stats: func() Stats { return Stats{Requests: requests, Busy: 2 * time.Second} }}
		if got := e.stats(); got.AverageProcessingTime != want || got.NumRequests != requests {
			t.Errorf("%+v", got)
		}
	}
}
