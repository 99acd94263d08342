package migrate_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(bridgeTask); task != "" {
		bridgeUntilKilled(task)
		return
	}
	if task := os.Getenv(serverTask); task != "" {
		serveUntilKilled(task)
		return
	}
	goleak.VerifyTestMain(m)
}
