package examples_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadmes_countTheLinesThatThereAre(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(data)
	}
	lines := func(name string) int {
		text := read(name)
		require.NotContains(t, text, `"sync"`, "%s has no mutex", name)
		n := strings.Count(text, "\n")
		if strings.HasSuffix(name, "/main.go") {
			require.Less(t, n, 200, name)
		}
		return n
	}
	mem, nats := lines("chatroom/main.go"), lines("nats-chatroom/main.go")
	page, view, robots := lines("chat/chat.go"), lines("chat/view.go"), lines("chat/robots.go")
	crud, shelf, rows := lines("pubsub-crud/main.go"), lines("pubsub-crud/shelf.go"), lines("pubsub-crud/view.go")
	for name, claims := range map[string][]string{
		"nats-chatroom/README.md": {
			fmt.Sprintf("have %d and %d lines", mem, nats),
			fmt.Sprintf("share %d of package", page+view+robots),
			fmt.Sprintf("the page (%d), its view (%d) and the robots (%d)", page, view, robots),
		},
		"pubsub-crud/README.md": {
			fmt.Sprintf("counts %d lines: %d in `main.go`", crud+shelf+rows, crud),
			fmt.Sprintf("%d in `shelf.go`", shelf),
			fmt.Sprintf("%d in `view.go`", rows),
		},
	} {
		readme := strings.Join(strings.Fields(read(name)), " ")
		for _, claim := range claims {
			require.Contains(t, readme, claim)
		}
	}
}
