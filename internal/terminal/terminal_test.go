package terminal_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/internal/terminal"
)

func TestLine_isCutWhereItWouldBreak(t *testing.T) {
	w := &bytes.Buffer{} // as wide as a window that doesn't say
	require.Equal(t, 79, terminal.Width(w))
	require.Equal(t, terminal.ClearLine+"é", terminal.Line(w, "é"))
	require.Equal(t, terminal.ClearLine+strings.Repeat("é", 79), terminal.Line(w, strings.Repeat("é", 79)))
	require.Equal(t, terminal.ClearLine+strings.Repeat("é", 78)+"…", terminal.Line(w, strings.Repeat("é", 80)))
}
