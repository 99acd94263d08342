package migrate_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const guide = "../../docs/migrate.md"

var update = flag.Bool("update", false, "write the steps' differences into "+guide)

// differences returns what is between two texts, with two lines around each change.
func differences(a, b []string) string {
	// common[i][j] is how many lines a[i:] and b[j:] have in common.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := range slices.Backward(a) {
		for j := range slices.Backward(b) {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, " "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "-"+a[i])
			i++
		default:
			lines = append(lines, "+"+b[j])
			j++
		}
	}
	var out strings.Builder
	shown := -1
	for i, line := range lines {
		near := slices.ContainsFunc(lines[max(0, i-2):min(len(lines), i+3)], func(l string) bool { return l[0] != ' ' })
		if !near {
			continue
		}
		if i > shown+1 {
			out.WriteString("@@\n")
		}
		shown = i
		out.WriteString(line + "\n")
	}
	return out.String()
}

func TestDifferences_areThoseOfTheTexts(t *testing.T) {
	split := func(s string) []string { return strings.Split(s, " ") }
	require.Equal(t, "@@\n b\n c\n-d\n+x\n e\n f\n@@\n k\n l\n+m\n", differences(split("a b c d e f g h i j k l"), split("a b c x e f g h i j k l m")))
	require.Empty(t, differences(split("a b"), split("a b")))
}

func source(t *testing.T, step int) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("step%d/main.go", step))
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func TestGuide_showsTheDifferencesOfTheSteps(t *testing.T) {
	page, err := os.ReadFile(guide)
	require.NoError(t, err)
	want := string(page)
	for step := 1; step <= 5; step++ {
		begin := fmt.Sprintf("<!-- step %d: go test ./examples/migrate -run TestGuide -update -->\n", step)
		const end = "<!-- end -->"
		before, rest, ok := strings.Cut(want, begin)
		require.True(t, ok, begin)
		_, after, ok := strings.Cut(rest, end)
		require.True(t, ok, begin)
		want = before + begin + "```diff\n" + differences(source(t, step-1), source(t, step)) + "```\n" + end + after
	}
	if *update {
		require.NoError(t, os.WriteFile(guide, []byte(want), 0o666))
		return
	}
	require.Equal(t, want, string(page), "the guide is old: go test ./examples/migrate -run TestGuide -update")
}

func TestGuide_countsWhatThereIs(t *testing.T) {
	page, err := os.ReadFile(guide)
	require.NoError(t, err)
	text := strings.Join(strings.Fields(string(page)), " ")
	rooms, err := os.ReadFile("step0/rooms.go")
	require.NoError(t, err)
	require.True(t, strings.Contains(text, fmt.Sprintf("the %d lines of `rooms.go`", strings.Count(string(rooms), "\n"))))
	for step := 1; step <= 5; step++ {
		added, removed := 0, 0
		for line := range strings.Lines(differences(source(t, step-1), source(t, step))) {
			added += strings.Count(line[:1], "+")
			removed += strings.Count(line[:1], "-")
		}
		claim := fmt.Sprintf(") | %d lines more, %d less", added, removed)
		require.True(t, strings.Contains(text, claim), "step %d: the guide doesn't say %q", step, claim)
	}
}

// The guide's claims name tests.
func TestGuide_namesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile(guide)
	require.NoError(t, err)
	names := regexp.MustCompile("`(Test[A-Z]\\w+|Example\\w+)`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(names), 5)
	for _, name := range names {
		out, err := exec.Command("grep", "-rlE", "--include=*_test.go", "^func "+name[1]+`\(`, "../..").Output()
		require.NoError(t, err, "no test: %s", name[1])
		require.NotEmpty(t, out)
	}
}
