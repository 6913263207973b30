package subject_test

import (
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

func TestName(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		parts [5]string
		want  string
	}{
		"plain":      {[5]string{"shop", "billing", "invoice", "created", "v1"}, "shop.billing.invoice.created.v1"},
		"characters": {[5]string{"a-1", "b_2", "3", "x", "v20"}, "a-1.b_2.3.x.v20"},
		"wildcards":  {[5]string{"shop", "*", "*", "*", "v2"}, "shop.*.*.*.v2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := tt.parts
			got, problem := subject.Name(p[0], p[1], p[2], p[3], p[4])
			if problem != nil || got != tt.want || subject.CheckPattern(got) != nil {
				t.Errorf("Name = %q, %+v", got, problem)
			}
		})
	}
}

func TestNameRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", subject.MaxLength)
	tests := map[string]struct {
		parts        [5]string
		reason, hint string
	}{
		"empty":        {[5]string{"", "b", "c", "d", "v1"}, "has an empty domain", "five parts"},
		"upper":        {[5]string{"a", "Billing", "c", "d", "v1"}, `has the service "Billing"`, `write "billing"`},
		"dot":          {[5]string{"a", "b", "c.c", "d", "v1"}, `has the entity "c.c"`, `instead of a dot`},
		"tail":         {[5]string{"a", "b", "c", ">", "v1"}, `has the action ">"`, `as a whole part`},
		"star inside":  {[5]string{"a", "b", "c", "d*", "v1"}, `has the action "d*"`, `as a whole part`},
		"blank":        {[5]string{"a b", "b", "c", "d", "v1"}, `has the domain "a b"`, "use a-z"},
		"umlaut":       {[5]string{"größe", "b", "c", "d", "v1"}, `has the domain "größe"`, "use a-z"},
		"no version":   {[5]string{"a", "b", "c", "d", ""}, `has the version ""`, `"v1"`},
		"no v":         {[5]string{"a", "b", "c", "d", "1"}, `has the version "1"`, `"v1"`},
		"v only":       {[5]string{"a", "b", "c", "d", "v"}, `has the version "v"`, `"v1"`},
		"v0":           {[5]string{"a", "b", "c", "d", "v0"}, `has the version "v0"`, `"v1"`},
		"v1.1":         {[5]string{"a", "b", "c", "d", "v1.1"}, `has the version "v1.1"`, `"v1"`},
		"all versions": {[5]string{"a", "b", "c", "d", "*"}, `has the version "*"`, `"v1"`},
		"too long":     {[5]string{long, "b", "c", "d", "v1"}, "bytes long", "into the message"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := tt.parts
			got, problem := subject.Name(p[0], p[1], p[2], p[3], p[4])
			if problem == nil || got != "" {
				t.Fatalf("Name = %q, %v", got, problem)
			}
			if !strings.Contains(problem.Reason, tt.reason) || !strings.Contains(problem.Hint, tt.hint) {
				t.Errorf("problem = %+v", *problem)
			}
		})
	}
}
