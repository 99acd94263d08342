package filebus_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPage_quotesCodeThatIsCompiled(t *testing.T) {
	var code string
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		code += readFile(t, file)
	}
	page, err := os.ReadFile("../../docs/backends.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(page, -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		require.True(t, strings.Contains(code, string(block[1])), "no file has this:\n%s", block[1])
	}
}

func TestConformance_isShortAndHasOneImportOfBustest(t *testing.T) {
	test := readFile(t, "conformance_test.go")
	require.Less(t, strings.Count(test, "\n"), 30)
	require.Equal(t, 1, strings.Count(test, "bustest\""))
}
