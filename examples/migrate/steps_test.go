package migrate_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (p *reader) waitLines(want ...string) {
	p.t.Helper()
	p.waitFor(func(_ string, lines []string) bool { return slices.Equal(want, lines) })
}

func (p *reader) waitTopic(want string) {
	p.t.Helper()
	p.waitFor(func(topic string, _ []string) bool { return topic == want })
}

func TestSteps_membersSeeEachOther(t *testing.T) {
	for step := range 6 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			c := start(t, step, t.TempDir())
			ann, bob, carol := c.enter("Go", "Ann"), c.enter("Go", "Bob"), c.enter("Rust", "Carol")
			c.say("Go", "Ann", "hello")
			for _, p := range []*reader{ann, bob} {
				p.waitLines("Ann: hello")
			}
			c.say("Go", "Bob", "you")
			require.NoError(t, c.post("/topic", "Go", "Bob", "tickers"))
			for _, p := range []*reader{ann, bob, c.enter("Go", "Dora")} {
				p.waitLines("Ann: hello", "Bob: you")
				p.waitTopic("tickers")
			}
			c.say("Rust", "Carol", "alone")
			carol.waitLines("Carol: alone")
			carol.waitTopic("")
			require.ErrorContains(t, c.post("/say", "C", "Ann", "where?"), "404")
			c.stop()
		})
	}
}

func TestSteps_aPageShowsTheLastFifty(t *testing.T) {
	for step := range 6 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			c := start(t, step, t.TempDir())
			ann := c.enter("Go", "Ann")
			var want []string
			for i := range 60 {
				c.say("Go", "Bob", fmt.Sprint(i))
				want = append(want, fmt.Sprint("Bob: ", i))
			}
			ann.waitLines(want[10:]...)
			c.enter("Go", "Carol").waitLines(want[10:]...)
		})
	}
}

// In step 3 the rooms' bus is the old one and NATS the new one, in step 4 the other way round.
func TestSteps_theReportIsClean(t *testing.T) {
	for _, step := range []int{3, 4} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			c := start(t, step, t.TempDir())
			const speakers, lines = 5, 40
			var speaking sync.WaitGroup
			for s := range speakers {
				speaking.Go(func() {
					for i := range lines {
						if err := c.post("/say", []string{"Go", "Rust"}[s%2], fmt.Sprint(s), fmt.Sprint(i)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			speaking.Wait()
			all := fmt.Sprintf("%d messages on the old bus, %[1]d on the new one, %[1]d on both", speakers*lines)
			require.Eventually(t, func() bool { return strings.HasPrefix(c.get("/report"), all) }, patience, 10*time.Millisecond)
			require.Contains(t, c.get("/report"), fmt.Sprintf("{Written:%d Lost:0 Waiting:0}", speakers*lines))
			out := c.stop()
			require.True(t, strings.HasPrefix(out, all), out)
			// On a busy machine one may be a second later than the other; nothing else is excused.
			require.Regexp(t, regexp.MustCompile(`^.*\n(\d+ late on the new bus\n(  late: .*\n)*)?$`), out)
		})
	}
}

func TestSteps_aKillLosesNothingThatWasAccepted(t *testing.T) {
	for _, step := range []int{4, 5} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			c := start(t, step, data)
			require.NoError(t, c.post("/topic", "Go", "Ann", "kill -9"))
			accepted := make(chan string, 50)
			go func() {
				defer close(accepted)
				for i := range cap(accepted) {
					if c.post("/say", "Go", "Ann", fmt.Sprint(i)) != nil {
						return
					}
					accepted <- fmt.Sprint("Ann: ", i)
				}
			}()
			var want []string
			for line := range accepted {
				if want = append(want, line); len(want) == 20 {
					c.kill()
				}
			}
			page := start(t, step, data).enter("Go", "Bob")
			page.waitFor(func(_ string, lines []string) bool {
				// What was being said when it was killed may be there, too.
				return len(lines) >= len(want) && len(lines) <= len(want)+1 && slices.Equal(want, lines[:len(want)])
			})
			if step == 5 {
				page.waitTopic("kill -9")
			}
		})
	}
}

func TestSteps_forthAndBackLoseNothing(t *testing.T) {
	data := t.TempDir()
	var said []string
	for _, step := range []int{3, 4, 3, 4, 5, 4, 5} {
		c := start(t, step, data)
		page := c.enter("Go", "Ann")
		if step == 3 { // reads the rooms' bus, which begins empty
			page.waitLines()
		} else {
			page.waitLines(said...)
		}
		line := fmt.Sprint("at step ", step, ", line ", len(said))
		c.say("Go", "Ann", line)
		said = append(said, "Ann: "+line)
		page.waitFor(func(_ string, lines []string) bool { return slices.Contains(lines, "Ann: "+line) })
		c.stop()
	}
}
