package subject_test

import (
	"strconv"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

const (
	benchSubject = "shop.billing.invoice.created.1" // 30 bytes
	benchPattern = "shop.billing.*.created.*"
)

var benchTree = func() *subject.Tree {
	var patterns []string
	for i := range 1000 {
		patterns = append(patterns, "shop.service-"+strconv.Itoa(i)+".>")
	}
	return subject.NewTree(append(patterns, benchPattern))
}()

// TestNoAllocations holds what the way of every publish relies on.
func TestNoAllocations(t *testing.T) {
	tests := map[string]struct {
		want float64
		call func()
	}{
		"Check":        {0, func() { subject.Check(benchSubject) }},
		"Check utf8":   {0, func() { subject.Check("größe.注文") }},
		"CheckPattern": {0, func() { subject.CheckPattern(benchPattern) }},
		"Matches":      {0, func() { subject.Matches(benchPattern, benchSubject) }},
		"Overlap":      {0, func() { subject.Overlap(benchPattern, benchSubject) }},
		"Find":         {0, func() { benchTree.Find(benchSubject) }},
		"MoreSpecific": {0, func() { subject.MoreSpecific(benchPattern, benchSubject) }},
		"Fill":         {1, func() { subject.Fill(benchPattern, "invoice", "1") }},
		"Match":        {1, func() { subject.Match(benchPattern, benchSubject) }},
	}
	for name, tt := range tests {
		if got := testing.AllocsPerRun(100, tt.call); got != tt.want {
			t.Errorf("%s: %v allocations, want %v", name, got, tt.want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		subject.Check(benchSubject)
	}
}

func BenchmarkCheckPattern(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		subject.CheckPattern(benchPattern)
	}
}

func BenchmarkFill(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		subject.Fill(benchPattern, "invoice", "1")
	}
}

func BenchmarkMatches(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		subject.Matches(benchPattern, benchSubject)
	}
}

func BenchmarkMatch(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		subject.Match(benchPattern, benchSubject)
	}
}

func BenchmarkFind(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		benchTree.Find(benchSubject)
	}
}

func BenchmarkFindNothing(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		benchTree.Find("shop.other.x")
	}
}
