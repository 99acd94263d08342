package compare_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
)

// patience is how long a test waits for what should come soon.
const patience = time.Minute

// tiny is a load that only proves that everything works.
var tiny = []string{"-d", "200ms", "-tabs", "6", "-rooms", "2", "-rate", "50", "-render", "100us"}

// ran is a command that has been run to its end, in a directory of its own.
type ran struct {
	status      int
	out, stderr string
	dir         string
}

func command(t *testing.T, args ...string) (cmd *exec.Cmd, temporary string) {
	t.Helper()
	temporary = t.TempDir()
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+temporary, "TEMP="+temporary, "TMP="+temporary,
		"GORACE=atexit_sleep_ms=10") // a second otherwise, for each of many processes
	cmd.Dir = t.TempDir()
	return cmd, temporary
}

// run runs the command, which must leave nothing but the files that are named.
func run(t *testing.T, args []string, files ...string) ran {
	t.Helper()
	cmd, temporary := command(t, args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.True(t, errors.As(err, &exit), err)
	}
	require.Empty(t, names(t, temporary))
	require.ElementsMatch(t, files, names(t, cmd.Dir), "what the command leaves where it ran")
	return ran{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), cmd.Dir}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// The JSON as package comment and README promise it.
type (
	report struct {
		System struct {
			OS   string `json:"os"`
			Arch string `json:"arch"`
			CPUs int    `json:"cpus"`
			Go   string `json:"go"`
		} `json:"system"`
		Load struct {
			Rooms, Tabs   int
			Rate          float64
			BurstRate     float64       `json:"burst_rate"`
			Conversation  time.Duration `json:"conversation_ns"`
			Burst         time.Duration `json:"burst_ns"`
			Flood         time.Duration `json:"flood_ns"`
			FloodMessages int           `json:"flood_messages"`
			Render        time.Duration `json:"render_ns"`
			Effort        int
			Seed          uint64
		} `json:"load"`
		Buses            []busFigures
		Verdict, Waiting []string
	}
	busFigures struct {
		Bus                        string
		Elsewhere                  bool
		Conversation, Burst, Flood *phase
		Memory                     *struct {
			Live int64 `json:"live_bytes"`
			Peak int64 `json:"peak_bytes"`
		}
		Kill     *struct{ Acknowledged, Lost int }
		Problems []string
		Error    string
	}
	phase struct {
		Messages, Refused, Deliveries, Missing, Repeated, Renders int
		Saved                                                     float64       `json:"renders_saved"`
		Took                                                      time.Duration `json:"took_ns"`
		PerSecond                                                 float64       `json:"deliveries_per_second"`
		CPU                                                       time.Duration `json:"cpu_ns"`
		PerMessage                                                time.Duration `json:"cpu_per_message_ns"`
		Handled                                                   distribution  `json:"publish_to_handler"`
		Rendered                                                  distribution  `json:"publish_to_rendered"`
	}
	distribution struct {
		P50  time.Duration `json:"p50_ns"`
		P99  time.Duration `json:"p99_ns"`
		Max  time.Duration `json:"max_ns"`
		Bins []struct {
			To    time.Duration `json:"to_ns"`
			Count int
		}
	}
)

// figures reads standard output, on which there must be nothing else.
func figures(t *testing.T, r ran) (rep report) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&rep), "%s\n%s", r.out, r.stderr)
	require.False(t, d.More(), r.out)
	return rep
}

func (d distribution) check(t *testing.T, n int) {
	t.Helper()
	total, before, at50, at99 := 0, time.Duration(0), time.Duration(0), time.Duration(0)
	for _, b := range d.Bins {
		require.Greater(t, b.To, before)
		require.Positive(t, b.Count)
		total += b.Count
		if at50 == 0 && 2*total >= n {
			at50 = b.To
			require.LessOrEqual(t, before, d.P50)
		}
		if at99 == 0 && 100*total >= 99*n {
			at99 = b.To
		}
		before = b.To
	}
	require.Equal(t, n, total)
	require.LessOrEqual(t, d.P50, at50)
	require.LessOrEqual(t, d.P99, at99)
	require.Positive(t, d.P50)
	require.LessOrEqual(t, d.P50, d.P99)
	require.LessOrEqual(t, d.P99, d.Max)
	require.LessOrEqual(t, d.Max, before)
}

func (p *phase) check(t *testing.T, tabsPerRoom int) {
	t.Helper()
	require.NotNil(t, p)
	require.Equal(t, p.Messages*tabsPerRoom, p.Deliveries)
	require.Zero(t, p.Missing+p.Repeated+p.Refused)
	require.Positive(t, p.Renders)
	require.LessOrEqual(t, p.Renders, p.Deliveries)
	require.InDelta(t, 1-float64(p.Renders)/float64(p.Deliveries), p.Saved, 1e-9)
	require.InDelta(t, float64(p.Deliveries)/p.Took.Seconds(), p.PerSecond, 1e-3)
	require.Equal(t, p.CPU/time.Duration(p.Messages), p.PerMessage)
	p.Handled.check(t, p.Deliveries)
	p.Rendered.check(t, p.Deliveries)
	require.GreaterOrEqual(t, p.Rendered.P50, p.Handled.P50, "what is rendered has been handled")
}

func TestMain_comparesBuses(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "mem:?tick=100ms", "-bus", "nats:", "-bus", "nats:here/a?sync=fast", "-json", "-svg", "x.svg"), "x.svg")
	require.Zero(t, r.status, r.stderr)
	require.Empty(t, r.stderr)
	rep := figures(t, r)
	require.Equal(t, runtime.GOOS, rep.System.OS)
	require.Equal(t, runtime.GOMAXPROCS(0), rep.System.CPUs)
	require.Equal(t, 6, rep.Load.Tabs)
	require.EqualValues(t, 500, rep.Load.BurstRate)
	require.Len(t, rep.Buses, 3)
	for i, name := range []string{"mem:?tick=100ms", "nats:", "nats:here/a?sync=fast"} {
		f := rep.Buses[i]
		require.Equal(t, name, f.Bus)
		require.Empty(t, f.Error)
		require.Empty(t, f.Problems)
		require.False(t, f.Elsewhere)
		f.Conversation.check(t, 3)
		f.Burst.check(t, 3)
		f.Flood.check(t, 3)
		require.Equal(t, 10, f.Conversation.Messages, "-rate for -d")
		require.Equal(t, 33, f.Burst.Messages)
		require.Positive(t, f.Memory.Live)
		if runtime.GOOS == "linux" {
			require.Greater(t, f.Memory.Peak, f.Memory.Live)
		}
		require.Positive(t, f.Kill.Acknowledged)
	}
	ticked, atOnce := rep.Buses[0], rep.Buses[1]
	require.Equal(t, ticked.Kill.Acknowledged, ticked.Kill.Lost, "memory is gone with its process")
	require.Zero(t, atOnce.Kill.Lost, "NATS keeps what it acknowledges")
	require.Zero(t, rep.Buses[2].Kill.Lost)
	require.NotEmpty(t, rep.Verdict)
	drawn, err := os.ReadFile(filepath.Join(r.dir, "x.svg"))
	require.NoError(t, err)
	checkPicture(t, drawn, rep)
}

func TestMain_showsATable(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "mem:", "-bus", "nats:{dir}"))
	require.Zero(t, r.status, r.stderr)
	require.Empty(t, r.stderr)
	require.Regexp(t, `(?m)^6 pages in 2 rooms, on \d+ CPUs`, r.out)
	require.Regexp(t, `(?m)^ +mem: +nats:\{dir\}$`, r.out)
	require.Regexp(t, `(?m)^  publish to handler, p50 +[\d.,]+ [mµn]?s +[\d.,]+ [mµn]?s$`, r.out)
	require.Regexp(t, `(?m)^  saved by coalescing +\d+ % +\d+ %$`, r.out)
	require.Regexp(t, `(?m)^lost at a kill, of acknowledged +([\d,]+) of ([\d,]+) +0 of [\d,]+$`, r.out)
	require.Regexp(t, `(?m)^What the figures say$`, r.out)
	for line := range strings.Lines(r.out) {
		require.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), 100, line)
	}
}

func TestMain_comparesTheBusesOfTheExampleIfNoneAreGiven(t *testing.T) {
	t.Parallel()
	rep := figures(t, run(t, append(tiny, "-json")))
	require.Equal(t, "mem:?tick=100ms", rep.Buses[0].Bus)
	require.Equal(t, "nats:", rep.Buses[1].Bus)
	require.Len(t, rep.Buses, 2)
}

func TestMain_saysWhichBusLosesOrRepeats(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "losing:", "-bus", "mem:", "-bus", "twice:", "-json"))
	require.Equal(t, 1, r.status)
	rep := figures(t, r)
	losing, good, twice := rep.Buses[0], rep.Buses[1], rep.Buses[2]
	for _, p := range []*phase{losing.Burst, losing.Flood} {
		require.InDelta(t, p.Messages*3/10, p.Missing, 4, "each tenth")
		require.Equal(t, p.Messages*3, p.Missing+p.Deliveries)
		require.Zero(t, p.Repeated)
	}
	good.Burst.check(t, 3)
	for _, p := range []*phase{twice.Burst, twice.Flood} {
		require.InDelta(t, p.Messages*3/10, p.Repeated, 4)
		require.Zero(t, p.Missing)
	}
	said := strings.Join(rep.Verdict, "\n")
	require.Contains(t, said, "losing: breaks the contract: in the burst")
	require.Contains(t, said, "twice: breaks the contract: in the flood")
	require.NotContains(t, said, "mem: breaks")

	r = run(t, append(tiny, "-bus", "losing:"))
	require.Equal(t, 1, r.status)
	require.Regexp(t, `(?m)^missing or repeated deliveries +[1-9][\d,]*$`, r.out)
}

func TestMain_countsWhatIsLostAtAKill(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "forgetful:{dir}", "-json"))
	require.Zero(t, r.status, r.stderr)
	f := figures(t, r).Buses[0]
	require.InDelta(t, f.Kill.Acknowledged/10, f.Kill.Lost, 4, "each tenth")
	require.Zero(t, f.Flood.Missing)
}

func TestMain_goesOnWhenABusCannotBeMeasuredToTheEnd(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "dying:", "-bus", "mem:", "-json", "-svg", "x.svg"), "x.svg")
	require.Equal(t, 1, r.status)
	rep := figures(t, r)
	require.Contains(t, rep.Buses[0].Error, "its process has ended early")
	require.Contains(t, rep.Buses[0].Error, "exit status 7")
	require.Nil(t, rep.Buses[0].Burst)
	require.Empty(t, rep.Buses[1].Error)
	rep.Buses[1].Burst.check(t, 3)
	drawn, err := os.ReadFile(filepath.Join(r.dir, "x.svg"))
	require.NoError(t, err)
	require.Contains(t, string(drawn), "not measured")

	r = run(t, append(tiny, "-bus", "dying:"))
	require.Equal(t, 1, r.status)
	require.Contains(t, r.out, "dying: couldn't be measured to the end: its process has ended early")
}

func TestMain_tellsOfPublishesThatFailed(t *testing.T) {
	t.Parallel()
	r := run(t, append(tiny, "-bus", "refusing:", "-json"))
	require.Equal(t, 1, r.status)
	require.Contains(t, figures(t, r).Buses[0].Error, "unavailable", "the rooms can't be filled")
}

func TestMain_refusesBadUseBeforeItMeasures(t *testing.T) {
	t.Parallel()
	taken := filepath.Join(t.TempDir(), "taken")
	require.NoError(t, os.WriteFile(taken, nil, 0o600))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-bus", "nowhere:"}, `unknown scheme "nowhere"`},
		{[]string{"-bus", "mem:", "-bus", "mem:?tik=1s"}, `"tik"`},
		{[]string{"-bus", "nats://x:secret@127.0.0.1:1"}, "unavailable"},
		{[]string{"-bus", "nats:" + taken}, "taken is no directory"},
		{[]string{"-bus", ""}, "no scheme"},
		{[]string{"-bus", "streamless:"}, "not supported"},
		{[]string{"-svg", filepath.Join(taken, "x.svg")}, "-svg "},
		{[]string{"-svg", "no/such/x.svg"}, "-svg no/such/x.svg: no such file or directory"},
		{[]string{"-svg", "."}, "-svg .: "},
		{[]string{"-svg", "x.svg", "-bus", "nowhere:"}, "unknown scheme"},
		{[]string{"-tabs", "0"}, "-tabs 0: want 1 to"},
		{[]string{"-tabs", "2"}, "-rooms 5: want 1 to 2"},
		{[]string{"-rate", "NaN"}, "-rate NaN: want 1 to"},
		{[]string{"-d", "1s1"}, `invalid value "1s1" for flag -d`},
		{[]string{"-d", "1ms"}, "-d 1ms: want 100ms to"},
		{[]string{"-d", "11m"}, "-d 11m0s: want 100ms to 10m"},
		{[]string{"-tabs", "10000", "-rooms", "1", "-rate", "200"}, "the burst would be 20,000,000 deliveries, and"},
		{[]string{"-render", "-1ms"}, "-render -1ms: want 0 to 1s"},
		{[]string{"-x"}, "not defined: -x; -h shows the flags"},
		{[]string{"mem:"}, `unexpected "mem:"; -h shows the flags`},
	} {
		if runtime.GOOS == "windows" && strings.Contains(c.want, "no such") {
			continue // the system words it differently
		}
		r := run(t, c.args)
		require.Equal(t, 2, r.status, c.args)
		require.Empty(t, r.out, c.args)
		require.Contains(t, r.stderr, c.want)
		require.NotContains(t, r.stderr, "secret")
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		require.True(t, strings.HasPrefix(r.stderr, "compare: "), r.stderr)
	}
}

func TestMain_keepsAnOldPictureUntilThereIsANewOne(t *testing.T) {
	t.Parallel()
	old := filepath.Join(t.TempDir(), "old.svg")
	require.NoError(t, os.WriteFile(old, []byte("old"), 0o600))
	require.Equal(t, 2, run(t, []string{"-svg", old, "-bus", "nowhere:"}).status)
	text, err := os.ReadFile(old)
	require.NoError(t, err)
	require.Equal(t, "old", string(text))
	require.Zero(t, run(t, append(tiny, "-svg", old, "-bus", "mem:")).status)
	text, err = os.ReadFile(old)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(text, []byte("<svg ")))
}

func TestMain_explainsItself(t *testing.T) {
	t.Parallel()
	r := run(t, []string{"-h"})
	require.Zero(t, r.status)
	require.Empty(t, r.stderr)
	require.Contains(t, r.out, "Usage: compare [-bus URL]... [flags]")
	for _, flag := range []string{"-bus URL", "-d DURATION", "-json", "-rate N", "-render DURATION", "-rooms N", "-svg FILE", "-tabs N"} {
		require.Contains(t, r.out, "\n  "+flag)
	}
	for line := range strings.Lines(r.out) {
		require.LessOrEqual(t, len(line), 101, line)
	}
}

// startServer starts a server whose user and password are in its URL, if it has them.
func startServer(t *testing.T, user, password string) (url string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		Username: user, Password: password,
	})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(patience))
	return s.ClientURL()
}

func streams(t *testing.T, url string) (list []string) {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	infos, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.Close(t.Context()))
	for _, info := range infos {
		list = append(list, info.Config.Name)
	}
	return list
}

func ensureOwn(t *testing.T, url string) {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	require.NoError(t, b.Close(context.Background()))
}

func TestMain_leavesNothingOnAServer(t *testing.T) {
	t.Parallel()
	url := strings.Replace(startServer(t, "me", "secret"), "nats://", "nats://me:secret@", 1)
	ensureOwn(t, url)
	r := run(t, append(tiny, "-bus", url, "-json", "-svg", "x.svg"), "x.svg")
	require.Zero(t, r.status, r.stderr)
	require.Empty(t, r.stderr)
	f := figures(t, r).Buses[0]
	require.True(t, f.Elsewhere)
	require.Zero(t, f.Kill.Lost)
	f.Flood.check(t, 3)
	require.Equal(t, []string{"CHAT"}, streams(t, url))
	drawn, err := os.ReadFile(filepath.Join(r.dir, "x.svg"))
	require.NoError(t, err)
	require.NotContains(t, r.out+string(drawn), "secret")

	r = run(t, append(tiny, "-bus", url))
	require.Contains(t, r.out, "only the client is measured and was killed, not the server")
	require.NotContains(t, r.out, "secret")
}

func TestMain_namesWhatItCannotRemove(t *testing.T) {
	t.Parallel()
	url := startServer(t, "", "")
	r := run(t, append(tiny, "-bus", strings.Replace(url, "nats://", "keeping://", 1)))
	require.Equal(t, 1, r.status)
	left := streams(t, url)
	require.Len(t, left, 3)
	for _, name := range left {
		require.Contains(t, r.stderr, "the stream "+name+" stays on keeping://")
	}
}

// underWay starts the command with a load that lasts, and waits until a child is publishing. What the command and its children
// write to standard error is held by all of them, so that Wait returns when none is there any more.
func underWay(t *testing.T) (cmd *exec.Cmd, temporary string, stderr *bytes.Buffer) {
	t.Helper()
	cmd, temporary = command(t, "-d", "10m", "-bus", "nats:", "-svg", "x.svg")
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // it may have ended
	t.Cleanup(func() { late.Stop() })
	require.Eventually(t, func() bool {
		// The store of the stream that the load publishes to.
		found, err := filepath.Glob(filepath.Join(temporary, "jitney-compare-*", "load", "jetstream", "*", "streams", "*_load", "msgs", "*.blk"))
		return err == nil && len(found) > 0
	}, patience, time.Millisecond, "%s", stderr)
	return cmd, temporary, stderr
}

func TestMain_endsCleanlyByASignal(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there, no process can be sent an interrupt")
	}
	cmd, temporary, stderr := underWay(t)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	var exit *exec.ExitError
	require.True(t, errors.As(cmd.Wait(), &exit), stderr)
	require.Equal(t, 1, exit.ExitCode(), stderr)
	require.Contains(t, stderr.String(), "compare: ended by a signal")
	require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr)
	require.Empty(t, names(t, temporary))
	require.Empty(t, names(t, cmd.Dir), "no empty picture")
}

func TestMain_leavesNothingWhenNobodyReads(t *testing.T) {
	t.Parallel()
	cmd, temporary := command(t, append(tiny, "-bus", "nats:")...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.Error(t, cmd.Run())
	require.Empty(t, names(t, temporary))
}

func TestMain_itsProcessesEndWithIt(t *testing.T) {
	t.Parallel()
	cmd, _, _ := underWay(t)
	require.NoError(t, cmd.Process.Kill())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		require.Error(t, err)
	case <-time.After(patience):
		require.Fail(t, "a process has outlived the command")
	}
}
