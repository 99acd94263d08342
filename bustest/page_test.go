package bustest

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

const pagePath = "../docs/conformance.md"

var update = flag.Bool("update", false, "write the table of checks into "+pagePath)

// ours are the packages of this project that a check's origin can name.
var ours = regexp.MustCompile(`\b(bus/driver|membus|natsbus|filebus)\b`)

// origins counts the checks whose rule others have broken, we have, and nobody that we know of.
func origins() (others, our, nobody int) {
	for _, c := range Checks() {
		if c.Origin == "" {
			nobody++
			continue
		}
		var byOthers, byUs bool
		for origin := range strings.SplitSeq(c.Origin, ";") {
			if ours.MatchString(origin) {
				byUs = true
			} else {
				byOthers = true
			}
		}
		if byOthers {
			others++
		}
		if byUs {
			our++
		}
	}
	return others, our, nobody
}

// table is what the page says of the checks.
func table() string {
	bugs := map[string][]string{}
	for _, m := range mutants {
		bugs[m.check] = append(bugs[m.check], m.bug)
	}
	var b strings.Builder
	others, our, nobody := origins()
	fmt.Fprintf(&b, "Of %d checks %d guard a rule that others have broken, %d one that we have (some both), and %d come from the contract alone.\n\n",
		len(Checks()), others, our, nobody)
	b.WriteString("| check | rule | needs | catches | was broken by |\n| --- | --- | --- | --- | --- |\n")
	for _, c := range Checks() {
		var needs []string
		for _, a := range c.Needs {
			needs = append(needs, string(a))
		}
		if c.Lacks != "" {
			needs = append(needs, "no "+string(c.Lacks))
		}
		row := []string{c.Name, c.Rule, strings.Join(needs, ", "), strings.Join(bugs[c.Name], ", "), c.Origin}
		for i, cell := range row {
			row[i] = strings.NewReplacer("|", `\|`, "*", `\*`, "<", `\<`).Replace(cell)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

func TestPage_listsTheChecks(t *testing.T) {
	const begin, end = "<!-- go test ./bustest -run TestPage -update -->\n", "<!-- end -->"
	page := readPage(t)
	before, rest, ok := strings.Cut(page, begin)
	require.True(t, ok)
	have, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(pagePath, []byte(before+begin+table()+end+after), 0o666))
		return
	}
	require.Equal(t, table(), have, "the table of checks is old: go test ./bustest -run TestPage -update")
}

// The track record names a check or a test for each bug.
func TestPage_namesChecksAndTestsThatExist(t *testing.T) {
	_, record, ok := strings.Cut(readPage(t), "## Track record\n")
	require.True(t, ok)
	known := map[string]bool{}
	for _, c := range Checks() {
		known[c.Name] = true
	}
	rows := 0
	for line := range strings.Lines(record) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 4 || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| bug") {
			continue
		}
		rows++
		names := regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[3], -1)
		require.NotEmpty(t, names, line)
		for _, name := range names {
			if !known[name[1]] {
				out, err := exec.Command("grep", "-rlE", "--include=*_test.go", "^func "+name[1]+`\(`, "..").Output()
				require.NoError(t, err, "no check and no test: %s", name[1])
				require.NotEmpty(t, out)
			}
		}
	}
	require.Greater(t, rows, 20)
}

func TestPage_explainsEachAbility(t *testing.T) {
	page, err := os.ReadFile("../docs/backends.md")
	require.NoError(t, err)
	for _, a := range Abilities() {
		require.True(t, slices.ContainsFunc(strings.Split(string(page), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "| `"+string(a)+"`")
		}), "docs/backends.md has no row for %s", a)
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(pagePath)
	require.NoError(t, err)
	return string(page)
}
