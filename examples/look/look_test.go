package look_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/examples/look"
)

func TestBackend_hidesSecretsAndTellsThePace(t *testing.T) {
	for busURL, want := range map[string][2]string{
		"mem:":             {"mem:", "instant"},
		"mem:?tick=100ms":  {"mem:?tick=100ms", "ticker 100 ms"},
		"mem:?tick=2s":     {"mem:?tick=2s", "ticker 2s"},
		"nats:./data/chat": {"nats:./data/chat", "instant"},
		"nats:./d?listen=0.0.0.0:4222&token=s3cr": {"nats:./d", "instant"},
		"nats://user:p@ss/word@chat.lan:4222":     {"nats://chat.lan:4222", "instant"},
	} {
		backend, pace := look.Backend(busURL)
		require.Equal(t, want, [2]string{backend, pace}, busURL)
	}
}
