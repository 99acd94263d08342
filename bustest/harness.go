package bustest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Ability names what only some backends can do. A harness claims it; the checks that
// need it then run, and those that hold without it (it must fail clearly) don't.
type Ability string

// The abilities of a harness. Those with a field of their own (PayloadLimit, Ticking, Faults) are
// claimed by setting it.
const (
	Headers       Ability = "Headers"       // bus.WithHeader
	Streams       Ability = "Streams"       // EnsureStreams, start positions, cursors
	Durable       Ability = "Durable"       // streams survive Close: Open on the same Env finds them again
	DurableIDs    Ability = "DurableIDs"    // message IDs survive Close also when limits have discarded the message
	CrashSafe     Ability = "CrashSafe"     // what Publish has accepted survives a SIGKILL; a process is killed for it
	Locking       Ability = "Locking"       // a store can be open once: the second Open is bus.ErrLocked
	TotalOrder    Ability = "TotalOrder"    // all subscriptions agree on the order of uncaptured messages, too
	Distributed   Ability = "Distributed"   // buses that are open on one Env at once are one system, as processes on one server
	OneServer     Ability = "OneServer"     // these are on one server, or on none: interest needn't spread
	Groups        Ability = "Groups"        // bus.Group
	DurableGroups Ability = "DurableGroups" // bus.DurableGroup
	PayloadLimit  Ability = "PayloadLimit"  // Harness.MaxPayload is set
	Ticking       Ability = "Ticking"       // Harness.Tick is set
	Faults        Ability = "Faults"        // Harness.Serve is set
)

// Abilities returns the abilities that Harness.Claims can hold.
func Abilities() []Ability {
	return []Ability{Headers, Streams, Durable, DurableIDs, CrashSafe, Locking, TotalOrder, Distributed, OneServer, Groups, DurableGroups}
}

// everyAbility is also those that have a field.
func everyAbility() []Ability { return append(Abilities(), PayloadLimit, Ticking, Faults) }

// Env is what a check opens a bus with.
type Env struct {
	// Dir is an empty directory of the check's own, which is removed at its end. A second
	// Open with the same Dir, after the first bus was closed or its process killed, opens
	// the same store.
	Dir string

	// Options carry the error hook and the logger of the check. They must reach the bus:
	// the suite checks that problems arrive.
	Options []bus.OpenOption

	// Addr is of the server that Harness.Serve has started for this check; empty where the
	// check doesn't break one, and Open connects to whatever it likes.
	Addr string

	ctx      context.Context
	problems *history
}

// Context ends when the check ends.
func (e *Env) Context() context.Context { return e.ctx }

// Harness tells the suite how to open a backend and what it claims to be able to do.
type Harness struct {
	// Open returns a fresh bus in e.Dir (or the one whose store is there already).
	Open func(e *Env) (bus.Bus, error)

	// Claims are the abilities of the backend. What isn't claimed is reported as such, and
	// must fail with bus.ErrUnsupported where a call can ask for it.
	Claims []Ability

	// MaxPayload is the most bytes of data that a message without headers can have;
	// 0: the backend has no limit that is worth checking.
	MaxPayload int

	// Tick is the time after which live messages are handed over together; 0: at once.
	Tick time.Duration

	// Residue counts what b holds elsewhere for its subscriptions, such as consumers at a
	// server; it must be as before when they have ended, and not grow with those of one stream. nil: there is nothing of the
	// kind.
	Residue func(ctx context.Context, b bus.Bus) (int, error)

	// Patience is how long something that must come may take in all, 30 s or 100 ticks if zero. A
	// check that passes never waits for it.
	Patience time.Duration

	// Settle is how long the suite looks whether something that must not come does come:
	// 100 ms if zero, one hour of virtual time in a bubble.
	Settle time.Duration

	// Bubble runs each check in a bubble of testing/synctest, where waiting costs nothing
	// and a leftover goroutine fails. It is for backends that live in this process' memory;
	// Examine ignores it.
	Bubble bool

	// Parallel has Run run the checks in parallel with one another, as subtests that call t.Parallel do. It is
	// for backends whose checks mostly wait, and whose buses on different Envs don't share what a check can use up. Examine
	// ignores it, and checks that measure the process run before the others.
	Parallel bool

	// Serve starts a server in e.Dir for one check, for a backend whose buses are clients of one.
	// Setting it claims Faults: the checks cut its connections, kill and freeze it. Open is
	// then given its address as Env.Addr. Process makes one of a command.
	Serve func(e *Env) (Server, error)

	// Rounds is how often the checks of crashes and faults repeat what is left to chance.
	// 0: as $BUSTEST_ROUNDS says, otherwise a few times.
	Rounds int

	// Seed makes the random choices of the checks repeatable: a failure prints its seed.
	// 0: a new one.
	Seed uint64

	// Extra are checks of the backend's own that run after the suite's.
	Extra []Check

	// Match picks the checks whose name it matches; nil: all. The others aren't reported.
	Match *regexp.Regexp

	// Shared says that buses on different Envs share their streams, as those of one server
	// do. The suite then removes the streams of a check at its end, on another bus and
	// through bus.Remover; what stays is in Result.Left.
	Shared bool

	// TempDir is where the directories of the Envs are made: os.TempDir if empty.
	TempDir string

	// Child lets Examine run the checks that need a process of their own (Run can do that
	// itself). It returns a command that starts this program again, so that it calls
	// Examine with this harness and a Match of that check alone, before it does anything
	// else. The suite adds to the command's environment, kills it, and ignores what it prints.
	Child func(check string) *exec.Cmd

	// Before and After, if set, are called by Examine around each check that it runs, the
	// latter also for those that don't apply.
	Before func(Check)
	After  func(Result)
}

const (
	defaultPatience     = 30 * time.Second
	defaultSettle       = 100 * time.Millisecond
	defaultBubbleSettle = time.Hour
	roundsVariable      = "BUSTEST_ROUNDS"
)

// implied is what an ability needs.
var implied = map[Ability]Ability{Durable: Streams, DurableIDs: Durable, CrashSafe: Durable, DurableGroups: Streams, OneServer: Distributed}

// fault says what is wrong with the harness itself.
func (h *Harness) fault() error {
	if h.Open == nil {
		return errors.New("bustest: the harness has no Open")
	}
	known := Abilities()
	for _, a := range h.Claims {
		if !slices.Contains(known, a) {
			return fmt.Errorf("bustest: the harness claims %q: want one of %v, or its field", a, known)
		}
	}
	for a, needs := range implied {
		if h.claims(a) && !h.claims(needs) {
			return fmt.Errorf("bustest: the harness claims %s without %s", a, needs)
		}
	}
	seen := map[string]bool{}
	for _, check := range h.checks() {
		if check.Name == "" || check.Rule == "" || check.Run == nil || seen[check.Name] {
			return fmt.Errorf("bustest: check %q needs a name of its own, a rule and a function", check.Name)
		}
		seen[check.Name] = true
	}
	return nil
}

func (h *Harness) claims(a Ability) bool {
	switch a {
	case PayloadLimit:
		return h.MaxPayload > 0
	case Ticking:
		return h.Tick > 0
	case Faults:
		return h.Serve != nil
	}
	return slices.Contains(h.Claims, a)
}

// checks is the table that this harness runs.
func (h *Harness) checks() []Check {
	all := append(Checks(), h.Extra...)
	if h.Match == nil {
		return all
	}
	return slices.DeleteFunc(all, func(c Check) bool { return !h.Match.MatchString(c.Name) })
}

// unclaimed says why a check doesn't apply to the backend, or "".
func (h *Harness) unclaimed(check Check) string {
	var lacks []string
	for _, a := range check.Needs {
		if !h.claims(a) {
			lacks = append(lacks, string(a))
		}
	}
	if len(lacks) > 0 {
		return "not claimed: " + strings.Join(lacks, ", ")
	}
	if check.Lacks != "" && h.claims(check.Lacks) {
		return fmt.Sprintf("%s is claimed, so it needn't fail", check.Lacks)
	}
	return ""
}

// withDefaults fills what was left zero. In a bubble time is free.
func (h Harness) withDefaults(bubble bool) Harness {
	h.Bubble = bubble
	if h.Patience == 0 {
		h.Patience = max(defaultPatience, 100*h.Tick)
	}
	if h.Settle == 0 {
		h.Settle = max(defaultSettle, 2*h.Tick) // what must not come would come at a tick
		if bubble {
			h.Settle = defaultBubbleSettle
		}
	}
	if h.Rounds == 0 {
		h.Rounds, _ = strconv.Atoi(os.Getenv(roundsVariable)) // what is no number counts as none
	}
	if h.Seed == 0 {
		h.Seed = newSeed()
	}
	return h
}
