package main

import (
	"bytes"
	"os"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/output.golden")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := run(&got); err != nil {
		t.Fatalf("%v; until then it printed:\n%s", err, &got)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("it printed:\n%s\nwant:\n%s", &got, want)
	}
}
