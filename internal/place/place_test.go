package place_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/internal/place"
)

func TestOf_tellsDirectoriesFromServersByForm(t *testing.T) {
	for url, want := range map[string]struct {
		parent string
		inDir  bool
		in     string
	}{
		"mem:":                    {"", false, "mem:"},
		"mem:?tick=100ms":         {"", false, "mem:?tick=100ms"},
		"nats://host:4222":        {"", false, "nats://host:4222"},
		"nats:./data/x":           {"./data/x", true, "nats:D"},
		"nats:/data?sync=always":  {"/data", true, "nats:D?sync=always"},
		"nats:{dir}":              {"", true, "nats:D"},
		"nats:{dir}/a?sync=fast":  {"", true, "nats:D/a?sync=fast"},
		"far://host?certs={dir}":  {"", true, "far://host?certs=D"},
		"no scheme":               {"", false, "no scheme"},
		"nats:":                   {"", false, "nats:"},
		"nats:?sync=always":       {"", false, "nats:?sync=always"},
		"nats:data/{dir}/jitney/": {"", true, "nats:data/D/jitney/"},
	} {
		p := place.Of(url)
		require.Equal(t, want.parent, p.Parent(), url)
		require.Equal(t, want.inDir, p.InDir(), url)
		require.Equal(t, want.in, p.In("D"), url)
		require.Equal(t, strings.Contains(url, "//"), p.Elsewhere(), url)
	}
}

func TestRemove_takesAwayWhatMakeHasCreatedAndNothingElse(t *testing.T) {
	root := t.TempDir()
	there := filepath.Join(root, "there")
	require.NoError(t, os.Mkdir(there, 0o700))
	p := place.Of("nats:" + there + "/a/b")
	require.NoError(t, p.Make())
	require.DirExists(t, filepath.Join(there, "a", "b"))
	require.NoError(t, p.Remove())
	require.DirExists(t, there)
	require.NoDirExists(t, filepath.Join(there, "a"))

	require.NoError(t, p.Make())
	kept := filepath.Join(there, "a", "b", "somebody's")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.ErrorContains(t, p.Remove(), "the directory stays")
	require.FileExists(t, kept)

	require.ErrorContains(t, place.Of("nats:"+kept+"/a").Make(), "somebody's is no directory")
}
