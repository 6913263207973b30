package bus_test

import (
	"os"
	"testing"

	"github.com/omnibus-go/bus/internal/leakcheck"
)

func TestMain(m *testing.M) {
	if options := os.Getenv(asServer); options != "" {
		runServer(options)
		return
	}
	if os.Getenv(asVictim) != "" {
		go endWithParent()
	}
	leakcheck.Main(m)
}
