package main_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func build(t *testing.T) string {
	t.Helper()
	jitney := filepath.Join(t.TempDir(), "jitney")
	if runtime.GOOS == "windows" {
		jitney += ".exe"
	}
	out, err := exec.Command("go", "build", "-o", jitney, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return jitney
}

func TestJitney_runsASubcommandOrSaysWhichThereAre(t *testing.T) {
	jitney := build(t)
	for _, c := range []struct {
		args        string
		status      int
		out, stderr string // a part of each; empty: nothing is written there
	}{
		{"", 2, "", "conformance"},
		{"help", 0, "conformance  check a bus", ""},
		{"-h", 0, "conformance  check a bus", ""},
		{"help", 0, "compare      give the same chat", ""},
		{"help conformance", 0, "Usage: jitney conformance -bus URL", ""},
		{"help confromance", 2, "", `unknown subcommand "confromance"; jitney help`},
		{"confromance", 2, "", `unknown subcommand "confromance"; jitney help`},
		{"conformance", 2, "", "jitney conformance: no bus"},
		{"conformance -h", 0, "Usage: jitney conformance -bus URL", ""},
		{"conformance -bus nowhere:", 2, "", `unknown scheme "nowhere"`},
		{"conformance -bus mem: -run ^RoundTrip$", 0, "\n1 passed, 0 failed, 0 skipped\n", ""},
		{"conformance -bus nats:{dir} -run ^RoundTrip$", 0, "\n1 passed, 0 failed, 0 skipped\n", ""},
		{"conformance -bus mem: -run ^Reopen$ -claim Durable", 1, "\n0 passed, 1 failed, 0 skipped\n", ""},
		{"bridge", 2, "", "jitney bridge: want both -from URL and -to URL"},
		{"bridge -h", 0, "Usage: jitney bridge -from URL -to URL", ""},
		{"compare -h", 0, "Usage: jitney compare [-bus URL]", ""},
		{"compare -bus nowhere:", 2, "", `unknown scheme "nowhere"`},
		{"compare -bus mem: -bus nats: -d 100ms -tabs 2 -rooms 1", 0, "\nWhat the figures say\n", ""},
	} {
		cmd := exec.Command(jitney, strings.Fields(c.args)...)
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &stderr, t.TempDir()
		_ = cmd.Run() // the status is looked at below
		require.Equal(t, c.status, cmd.ProcessState.ExitCode(), "%s\n%s%s", c.args, &out, &stderr)
		require.Contains(t, out.String(), c.out, c.args)
		require.Contains(t, stderr.String(), c.stderr, c.args)
		require.Equal(t, c.out == "", out.Len() == 0, c.args)
		require.Equal(t, c.stderr == "", stderr.Len() == 0, c.args)
	}
}
