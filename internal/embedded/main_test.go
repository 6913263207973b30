package embedded

import (
	"testing"

	"github.com/omnibus-go/bus/internal/leakcheck"
)

func TestMain(m *testing.M) { leakcheck.Main(m) }
