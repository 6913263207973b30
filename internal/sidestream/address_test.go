package sidestream

import (
	"maps"
	"slices"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
	"github.com/omnibus-go/bus/internal/wire"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	p := Address{Stream: "ORDERS", Durable: "billing", Incarnation: wire.Incarnation(nil, stored), Sequence: 18446744073709551615}
	subjects := map[string]bool{}
	for _, key := range []string{"", KeyToken(""), KeyToken("a.b *>")} {
		p.Key = key
		for _, kind := range []Kind{Dead, Retry, Later} {
			s := p.Subject(kind)
			subjects[s] = true
			gotKind, got, ok := ParseSubject(s)
			if !ok || gotKind != kind || got != p {
				t.Errorf("%s: got %s, %+v, %v", s, gotKind, got, ok)
			}
			if all := (Address{Stream: "ORDERS", Durable: "billing", Incarnation: p.Incarnation}).KeyPattern(kind); subject.Matches(all, s) != (key != "") ||
				key != "" && !subject.Matches(p.KeyPattern(kind), s) {
				t.Errorf("%s and %s do not match", all, s)
			}
		}
	}
	if seq, ok := ParseStartMark(p.StartMark("x")); !ok || seq != p.Sequence || !subject.Matches(p.RecoveryPattern(), p.StartMark("x")) || !subject.Matches(p.StartMark("*"), p.StartMark("x")) {
		t.Errorf("%s: got %d, %v", p.StartMark("x"), seq, ok)
	}
	if _, ok := ParseStartMark(p.HandbackRecords()); ok {
		t.Errorf("%s was accepted", p.HandbackRecords())
	}
	if len(subjects) != 9 || wire.Incarnation(nil, stored) == wire.Incarnation(nil, stored.Add(1)) {
		t.Errorf("got %v", slices.Collect(maps.Keys(subjects)))
	}
	for _, bad := range []string{"", "x", "$OMNIBUS.dead.S.d.i", "$OMNIBUS.dead.S.d.i.x", "$OMNIBUS.dead.S.d.i.1.", "$OMNIBUS.dead.S.d.i.1.2.3", "$OMNIBUS.dead.S.d.i.-1"} {
		if _, _, ok := ParseSubject(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
}
