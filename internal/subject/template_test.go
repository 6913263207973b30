package subject_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/omnibus-go/bus/internal/subject"
)

// TestTemplate is not parallel: the patterns are shared by the process, and others
// fill some that match everything.
func TestTemplate(t *testing.T) {
	subject.Forget()
	for _, p := range []string{"tpl.orders.*.placed", "tpl.orders.eu.*", "tpl.>", "*.tpl2.*"} {
		tokens := []string{"a", "b"}
		if p == "tpl.orders.*.placed" || p == "tpl.orders.eu.*" {
			tokens = tokens[:1]
		}
		if err := subject.Check(subject.Fill(p, tokens...)); err != nil {
			t.Fatal(err)
		}
	}
	subject.Fill("tpl3.*")             // a mistake teaches nothing
	subject.Fill("tpl4.literal")       // nor does a literal
	subject.Fill("tpl5.*", "not.good") // nor a bad token
	for _, tc := range []struct{ subject, want string }{
		{"tpl.orders.us.placed", "tpl.orders.*.placed"},
		{"tpl.orders.eu.placed", "tpl.orders.eu.*"},
		{"tpl.orders", "tpl.>"},
		{"x.tpl2.y", "x.tpl2.y"}, // its pattern says too little
		{"tpl", "tpl"},
		{"tpl3.a", "tpl3.a"},
		{"tpl4.literal", "tpl4.literal"},
		{"tpl5.a", "tpl5.a"},
	} {
		if got := subject.Template(tc.subject); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.subject, got, tc.want)
		}
	}
}

func TestTemplateConcurrently(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				p := "tplc" + strconv.Itoa((i+j)%20) + ".*"
				s := subject.Fill(p, "x")
				if got := subject.Template(s); got != p {
					t.Errorf("%s: got %s, want %s", s, got, p)
				}
			}
		})
	}
	wg.Wait()
}
