package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := run(&got, 2000); err != nil {
		t.Fatalf("%v; until then it printed:\n%s", err, &got)
	}
	if !strings.HasSuffix(got.String(), "the hub has 6000 orders: each one once, those of each edge in order\n") {
		t.Errorf("it printed:\n%s", &got)
	}
}
