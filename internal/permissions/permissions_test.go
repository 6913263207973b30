package permissions_test

import (
	"os"
	"strings"
	"testing"

	"github.com/omnibus-go/bus/internal/permissions"
)

// The documentation has the table of all permissions, in their order.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| may | subject | for |\n|---|---|---|\n")
	for _, n := range permissions.All() {
		may := "subscribe"
		if n.Publish {
			may = "publish"
		}
		table.WriteString("| " + may + " | `" + n.Subject + "` | " + string(n.For) + " |\n")
	}
	text, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := table.String() + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("docs/wire.md does not have this table:\n%s", want)
	}
}
