package bridge

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/migrate"
	"github.com/jitney-go/jitney/internal/terminal"
)

// lineEvery is how often progress is a line where there is no terminal.
const lineEvery = 10 * time.Second

// show tells a person what goes on: by a bar where lines can be overwritten, elsewhere by a line now and then.
type show struct {
	w     io.Writer
	name  string
	bar   bool
	mu    sync.Mutex
	shown bool                 // a bar is on the line
	lines map[string]time.Time // when each part had its line last
}

func newShow(w io.Writer, name string) *show {
	return &show{w: w, name: name, bar: terminal.Overwrites(w), lines: map[string]time.Time{}}
}

// logger writes the warnings of the buses between the lines.
func (s *show) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelError}))
}

// Write implements io.Writer for the logger.
func (s *show) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	return s.w.Write(p)
}

func (s *show) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	fmt.Fprintf(s.w, "%s: %s\n", s.name, text)
}

func (s *show) problem(p bus.Problem) {
	s.line(plain(p.Err))
}

func (s *show) progress(p migrate.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := "copied"
	if p.Comparing {
		what = "compared"
	}
	if s.bar {
		s.shown = true
		fmt.Fprint(s.w, terminal.Line(s.w, bar(p.Stream, what, p.Done, p.Total, terminal.Width(s.w))))
		return
	}
	part := p.Stream + " " + what
	last, told := s.lines[part]
	if told && time.Since(last) < lineEvery {
		return
	}
	s.lines[part] = time.Now()
	if !told {
		return // the first line has time, too, also if what it would tell is the end
	}
	fmt.Fprintf(s.w, "%s: %s: %s %d of %d\n", s.name, p.Stream, what, p.Done, p.Total)
}

// bar is a line such as "CHAT copied [######......] 12345 of 100000". Where it is narrow, there is no bar.
func bar(stream, what string, done, total uint64, columns int) string {
	numbers := fmt.Sprintf("%d of %d", done, total)
	if name := []rune(stream); len(name) > 30 {
		stream = string(name[:29]) + "…"
	}
	width := columns - len([]rune(stream)) - len(what) - len(numbers) - 5
	if width < 5 {
		return fmt.Sprintf("%s %s %s", stream, what, numbers)
	}
	full := width
	if total > 0 {
		full = min(width, int(uint64(width)*done/total))
	}
	return fmt.Sprintf("%s %s [%s%s] %s", stream, what, strings.Repeat("#", full), strings.Repeat(".", width-full), numbers)
}

// clear takes the bar off the line; mu is held.
func (s *show) clear() {
	if s.shown {
		s.shown = false
		fmt.Fprint(s.w, terminal.ClearLine)
	}
}

func (s *show) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
}
