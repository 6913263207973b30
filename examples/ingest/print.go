package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
)

// print writes the result, the most frequent first.
func (r *result) print(w io.Writer) error {
	p := printer{w: w}
	p.line("%d lines: %d stored, %d stored before, %d unusable", r.lines, r.stored, r.duplicates, r.malformed)
	p.line("")
	p.line("events: %d messages handled", r.events.messages)
	for _, name := range byCount(r.events.byType, func(n int) int { return n }) {
		p.line("%7d  %s", r.events.byType[name], name)
	}
	p.line("")
	p.line("repositories: %d messages handled", r.repositories.messages)
	for _, name := range byCount(r.repositories.byName, func(r *repository) int { return r.messages }) {
		repo := r.repositories.byName[name]
		p.line("%7d  %s (senders: %d)", repo.messages, name, len(repo.senders))
	}
	p.line("")
	p.line("payloads: %d messages handled", r.payloads.messages)
	if r.payloads.messages > 0 {
		p.line("%7d  bytes in all", r.payloads.bytes)
		p.line("%7d  bytes in the largest, message %d on %s", r.payloads.largest, r.payloads.sequence, r.payloads.subject)
	}
	return p.err
}

// byCount returns the keys of m, those with the highest count first, then by name.
func byCount[V any](m map[string]V, count func(V) int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(count(m[b]), count(m[a])), cmp.Compare(a, b))
	})
}

// printer keeps the first error, so that only the end has to look.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}
