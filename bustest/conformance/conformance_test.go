package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/membus"
	_ "github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest"
	"github.com/jitney-go/jitney/bustest/conformance"
)

// asCommand makes this test binary the command, as a third party's would be.
const asCommand = "CONFORMANCE_TEST_COMMAND"

func TestMain(m *testing.M) {
	bus.Register("twice", openTwice)
	bus.Register("keeping", openKeeping)
	if os.Getenv(asCommand) != "" {
		os.Exit(conformance.Main("conformance", os.Args[1:]))
	}
	os.Exit(m.Run())
}

// twice publishes each tenth message once more.
type twice struct {
	bus.Bus
	n atomic.Uint64
}

func openTwice(ctx context.Context, _ *url.URL, _ bus.OpenOptions) (bus.Bus, error) {
	b, err := membus.Open(0)
	return &twice{Bus: b}, err
}

func (f *twice) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	err := f.Bus.Publish(ctx, subject, data, opts...)
	if err == nil && f.n.Add(1)%10 == 0 {
		err = f.Bus.Publish(ctx, subject, data, opts...)
	}
	return err
}

// keeping is a server's bus that can't remove streams.
type keeping struct{ bus.Bus }

func openKeeping(ctx context.Context, u *url.URL, _ bus.OpenOptions) (bus.Bus, error) {
	b, err := bus.Open(ctx, "nats://"+u.Host)
	return keeping{b}, err
}

func (k keeping) Streams(ctx context.Context) ([]bus.StreamInfo, error) {
	return k.Bus.(bus.StreamLister).Streams(ctx)
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", "TMPDIR="+t.TempDir())
	cmd.Dir = t.TempDir()
	return cmd
}

// run runs the command to its end.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := command(t, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	left, err := filepath.Glob(filepath.Join(cmd.Dir, "*"))
	require.NoError(t, err)
	require.Empty(t, left, "what the command leaves where it ran")
	return cmd.ProcessState.ExitCode(), out.String(), problems.String()
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestMain_passesGoodBuses(t *testing.T) {
	if testing.Short() {
		t.Skip("the whole suite on each bus; single checks cover it for a first look")
	}
	elsewhere := startServer(t)
	for _, url := range []string{"mem:", elsewhere} {
		t.Run(url, func(t *testing.T) {
			status, out, problems := run(t, "-bus", url, "-claim", "TotalOrder")
			require.Zero(t, status, out)
			require.Empty(t, problems)
			require.Regexp(t, `^\d+ passed, 0 failed, \d+ skipped$`, lastLine(out))
			for _, c := range bustest.Checks() {
				require.Regexp(t, `(?m)^`+c.Name+` +(passed|not claimed) +\d+ ms`, out)
			}
			_, report, _ := strings.Cut(out, "\n\n") // behind the progress
			for line := range strings.Lines(report) {
				require.LessOrEqual(t, len([]rune(strings.TrimSpace(line))), 100, line)
			}
			require.NotContains(t, out, "These streams stay")
		})
	}
	require.Empty(t, streams(t, elsewhere))
}

func TestMain_failsABadBus(t *testing.T) {
	status, out, _ := run(t, "-bus", "twice:", "-run", "^(FanOut|EmptyPayload|FIFO|OverlapOnce)$", "-seed", "7", "-claim", "TotalOrder")
	require.Equal(t, 1, status, out)
	require.Regexp(t, `^[0-3] passed, [1-4] failed, 0 skipped$`, lastLine(out))
	fifo := bustest.Checks()[slices.IndexFunc(bustest.Checks(), func(c bustest.Check) bool { return c.Name == "FIFO" })]
	require.Contains(t, out, "FAILED FIFO: "+fifo.Rule, "the rule")
	require.Regexp(t, `>\s+\d+ `, out, "the offending event")
	require.Contains(t, out, "(seed 7)")
	require.Contains(t, out, "alone: conformance -bus 'twice:' -run '^FIFO$' -seed 7 -claim 'TotalOrder'")
}

func TestMain_saysWhatIsWrongWithItsUse(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "no bus: want -bus URL"},
		{[]string{"mem:"}, `unexpected "mem:"`},
		{[]string{"-bus", "mem:", "-cuont", "3"}, "-cuont"},
		{[]string{"-bus", "mem:", "-count", "0"}, "want 1 or more"},
		{[]string{"-bus", "mem:", "-run", "NoSuchCheck"}, `-run "NoSuchCheck" matches no check`},
		{[]string{"-bus", "mem:", "-run", "("}, "-run"},
		{[]string{"-bus", "mem:", "-claim", "Telepathy"}, `-claim "Telepathy"`},
		{[]string{"-bus", "nowhere:"}, "unknown scheme"},
		{[]string{"-bus", "nowhere:there"}, `bus: open "nowhere:there": unknown scheme`},
		{[]string{"-bus", "mem:", "-bus", "mem:?tick=1s"}, "it is there twice"},
		{[]string{"-bus", "nothing"}, "no scheme"},
		{[]string{"-bus", "mem:./data"}, "has no place"},
		{[]string{"-bus", "nats://user:hush@127.0.0.1:1"}, "is the server running"},
	} {
		status, out, problems := run(t, c.args...)
		require.Equal(t, 2, status, c.args)
		require.Empty(t, out)
		require.Contains(t, problems, c.want)
		require.NotContains(t, problems, "hush")
		if strings.Contains(problems, "unknown scheme") {
			require.NotContains(t, problems, "directory of its own")
		}
		require.Equal(t, 1, strings.Count(problems, "\n"), problems)
	}
	status, out, _ := run(t, "-h")
	require.Zero(t, status)
	require.Contains(t, out, "-count N")
}

func TestMain_refusesAStoreThatTheBusesWouldShare(t *testing.T) {
	cmd := command(t, "-bus", "nats:")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 2, cmd.ProcessState.ExitCode())
	require.Contains(t, string(out), "{dir} is a fresh directory")
	streams, err := filepath.Glob(filepath.Join(cmd.Dir, "data", "nats", "jetstream", "*", "streams", "[^.]*"))
	require.NoError(t, err)
	require.Empty(t, streams, "streams in the store")
}

// event is any line of -json.
type event struct {
	Event      string            `json:"event"`
	Bus        string            `json:"bus"`
	Seed       uint64            `json:"seed"`
	Checks     int               `json:"checks"`
	Claims     []bustest.Ability `json:"claims"`
	MaxPayload int               `json:"max_payload"`
	Findings   []bustest.Finding `json:"findings"`
	Round      int               `json:"round"`
	Check      struct {
		Name, Rule string
		Needs      []bustest.Ability
	} `json:"check"`
	Status      bustest.Status `json:"status"`
	Reason      string         `json:"reason"`
	Passed      int            `json:"passed"`
	Failed      int            `json:"failed"`
	Skipped     int            `json:"skipped"`
	Interrupted bool           `json:"interrupted"`
	Left        []string       `json:"left"`
}

func events(t *testing.T, out string) []event {
	t.Helper()
	var list []event
	for line := range strings.Lines(out) {
		d := json.NewDecoder(strings.NewReader(line))
		var e event
		require.NoError(t, d.Decode(&e), line)
		list = append(list, e)
	}
	require.NotEmpty(t, list)
	require.Equal(t, "start", list[0].Event)
	return list
}

func TestMain_writesALineOfJSONPerResult(t *testing.T) {
	status, out, problems := run(t, "-bus", "mem:", "-json", "-run", "^(RoundTrip|NoHeaders|Reopen|MaxMsgs)$", "-count", "2", "-seed", "5")
	require.Zero(t, status)
	require.Empty(t, problems)
	list := events(t, out)
	require.Len(t, list, 1+2*4+1)
	start, end := list[0], list[9]
	require.Equal(t, 4, start.Checks)
	require.Equal(t, "mem:", start.Bus)
	require.Contains(t, start.Claims, bustest.Streams)
	require.NotContains(t, start.Claims, bustest.Durable)
	require.Equal(t, 1<<20, start.MaxPayload)
	require.NotEmpty(t, start.Findings)
	for i, e := range list[1:9] {
		require.Equal(t, "result", e.Event)
		require.Equal(t, 1+i/4, e.Round)
		require.Equal(t, uint64(5+i/4), e.Seed)
		require.NotEmpty(t, e.Check.Rule)
		switch e.Check.Name {
		case "RoundTrip", "MaxMsgs":
			require.Equal(t, bustest.Passed, e.Status)
			require.Empty(t, e.Reason)
		default:
			require.Equal(t, bustest.NotClaimed, e.Status)
			require.NotEmpty(t, e.Reason)
		}
	}
	require.Equal(t, event{Event: "end", Passed: 4, Skipped: 4}, end)
}

func TestMain_sumsTheFailuresOfAllRounds(t *testing.T) {
	status, out, _ := run(t, "-bus", "twice:", "-run", "^(FIFO|EmptyPayload)$", "-count", "3")
	require.Equal(t, 1, status)
	require.Equal(t, "3 passed, 3 failed, 0 skipped", lastLine(out))
	require.Regexp(t, `FIFO +failed .* 3 of 3 times: `, out)
	seeds := regexp.MustCompile(`\(seed (\d+)\)`).FindAllString(out, -1)
	require.Len(t, seeds, 3)
	require.NotEqual(t, seeds[0], seeds[1])
}

func TestMain_insistsOnWhatIsClaimed(t *testing.T) {
	status, out, _ := run(t, "-bus", "mem:", "-run", "^(Reopen|Kill)$")
	require.Zero(t, status)
	require.Equal(t, "0 passed, 0 failed, 2 skipped", lastLine(out))
	status, out, _ = run(t, "-bus", "mem:", "-run", "^Reopen$", "-claim", "Durable")
	require.Equal(t, 1, status)
	require.Equal(t, "0 passed, 1 failed, 0 skipped", lastLine(out))
	require.Contains(t, out, "no, but claimed:")
}

func TestMain_startsItselfAgainForTheChecksThatKill(t *testing.T) {
	status, out, _ := run(t, "-bus", "nats:{dir}/below", "-run", "^(LockedElsewhere|Reopen)$")
	require.Zero(t, status, out)
	require.Equal(t, "2 passed, 0 failed, 0 skipped", lastLine(out))
}

// startServer starts a NATS server of somebody else's and returns its URL.
func startServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

// streams are those of a server, with one of a user's own.
func streams(t *testing.T, url string) []string {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close(context.Background())) }()
	infos, err := b.(bus.StreamLister).Streams(t.Context())
	require.NoError(t, err)
	var names []string
	for _, info := range infos {
		names = append(names, info.Config.Name)
	}
	return names
}

func ensureOwn(t *testing.T, url string) {
	t.Helper()
	b, err := bus.Open(t.Context(), url)
	require.NoError(t, err)
	require.NoError(t, b.EnsureStreams(t.Context(), bus.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}))
	require.NoError(t, b.Close(context.Background()))
}

func TestMain_leavesNothingOnAServer(t *testing.T) {
	url := startServer(t)
	ensureOwn(t, url)
	status, out, _ := run(t, "-bus", url, "-run", "^(MaxMsgs|Reopen|Kill|DurableGroup.*)$")
	require.Zero(t, status, out)
	require.Equal(t, []string{"CHAT"}, streams(t, url))
}

func TestMain_namesWhatItCannotRemove(t *testing.T) {
	url := startServer(t)
	ensureOwn(t, url)
	status, out, _ := run(t, "-bus", strings.Replace(url, "nats://", "keeping://", 1), "-run", "^MaxMsgs$", "-json")
	require.Zero(t, status, out)
	list := events(t, out)
	left := list[len(list)-1].Left
	require.NotEmpty(t, left)
	names := streams(t, url)
	require.Len(t, names, len(left)+1)
	for _, l := range left {
		name, _, _ := strings.Cut(l, ":")
		require.Contains(t, names, name)
	}
}

func TestMain_endsCleanlyByASignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there, no process can be sent an interrupt")
	}
	for name, url := range map[string]string{"a directory": "nats:./data/x", "a server": startServer(t)} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, "-bus", url, "-count", "1000", "-run", "^(MaxAge|MaxMsgs|ErrorText)$")
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // it may have ended
			defer late.Stop()
			var said strings.Builder
			for lines := bufio.NewScanner(out); lines.Scan(); {
				said.WriteString(lines.Text() + "\n")
				if strings.HasPrefix(lines.Text(), "round 2 of 1000") && strings.Contains(lines.Text(), "MaxAge") {
					require.NoError(t, cmd.Process.Signal(os.Interrupt))
				}
			}
			var exit *exec.ExitError
			require.True(t, errors.As(cmd.Wait(), &exit), said.String())
			require.Equal(t, 1, exit.ExitCode(), said.String())
			require.Contains(t, said.String(), "Ended by a signal in round 2 of 1000")
			require.Regexp(t, `^[3-6] passed, 0 failed, \d skipped$`, lastLine(said.String()))
			left, err := filepath.Glob(filepath.Join(cmd.Dir, "*"))
			require.NoError(t, err)
			require.Empty(t, left)
			if strings.HasPrefix(url, "nats://") {
				require.Empty(t, streams(t, url))
			}
		})
	}
}
