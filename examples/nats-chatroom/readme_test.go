package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadme_countsTheLinesThatThereAre(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(data)
	}
	lines := func(name string) int {
		text := read(name)
		require.NotContains(t, text, `"sync"`, "%s has no mutex", name)
		return strings.Count(text, "\n")
	}
	mem, nats := lines("../chatroom/main.go"), lines("main.go")
	page, view, robots := lines("../chat/chat.go"), lines("../chat/view.go"), lines("../chat/robots.go")
	readme := strings.Join(strings.Fields(read("README.md")), " ")
	for _, claim := range []string{
		fmt.Sprintf("have %d and %d lines", mem, nats),
		fmt.Sprintf("share %d of package", page+view+robots),
		fmt.Sprintf("the page (%d), its view (%d) and the robots (%d)", page, view, robots),
	} {
		require.Contains(t, readme, claim)
	}
	require.Less(t, max(mem, nats), 200)
}
