package natsbus

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Below sync=always a member's machine that crashes may take the end of what it had stored, which the others have. If it happens to so
// many members at once that what was acknowledged may be gone from all that choose the next leader, messages take sequences
// that were given before: the server keeps the old ones on whoever has them, calls that replica current, and passes consumers over as
// many new ones as they were further (measured with nats-server 2.15).
//
// So a member whose machine has crashed suspects its replicas until they are known to be what the leader has (sound.go).

// crashFile is in a member's store as long as it suspects a replica, or the cluster's log.
const crashFile = "jitney.crash"

const (
	marksLeast = 64 // messages at the end of a replica that are compared, where it has as many
	marksFiles = 4  // in how many files at most they are looked for
)

// crash is what crashFile holds.
type crash struct {
	ID       string              `json:"id"`
	Boot     string              `json:"boot"` // what bootOf said after it
	Suspects map[string]*suspect `json:"suspects"`
	Log      *logSuspicion       `json:"log,omitempty"`
}

// logSuspicion is a cluster's log that is made anew, since it contradicts a claim.
type logSuspicion struct {
	Claim    claim `json:"claim"`
	Replaced bool  `json:"replaced,omitempty"` // and not filled yet
}

// suspect is a replica that may not be what the leader has.
type suspect struct {
	Crash    string    `json:"crash"`             // that made it so; nobody else's has this name
	Created  time.Time `json:"created"`           // of the stream
	Marks    []mark    `json:"marks,omitempty"`   // what it ended with, ascending, each time that its machine had crashed
	Since    time.Time `json:"since"`             // when its store was opened after the last crash of its machine
	End      uint64    `json:"end,omitempty"`     // the sequence that it ended with then
	Ended    bool      `json:"ended,omitempty"`   // its machine has crashed
	Least    uint64    `json:"least,omitempty"`   // the least sequence that it has ended with
	Differs  bool      `json:"differs,omitempty"` // it isn't what the leader has
	Replaced bool      `json:"replaced,omitempty"`
	Misled   bool      `json:"misled,omitempty"` // somebody may have read what differs
	Sound    string    `json:"sound,omitempty"`  // under whose lead it was what the leader had

	// Of the goroutine that compares, except for replacing.
	replacing bool      // it is about to be taken away
	checked   string    // under whose lead the leader had its marks
	truth     uint64    // the last sequence that the leader had
	unwritten int       // how often in turn its files had less than its server
	uncounted int       // how often in turn it had as many messages as the leader, but others deleted, or more than the leader
	waiting   time.Time // since when this member leads the stream with it, or the others have got further; zero: it doesn't
	reach     uint64    // what it had when it began to lead
	reached   uint64    // how far the others had got, in all
}

// mark is a message of a stream: another one in its place has another time.
type mark struct {
	Seq  uint64 `json:"seq"`
	Time int64  `json:"time"` // ns
}

// review is what a member compares with what the leaders have.
type review struct {
	mu     sync.Mutex
	record crash
	poked  map[string]time.Time // streams that other members suspect: until when they are looked at
	heard  map[string]time.Time // when a member has answered last
	began  time.Time

	lives   map[string]string // the last one of each stream: its metadata may be put back
	unsaved bool              // suspicions that are over

	leftovers map[configOf]bool // consumers that only this member has still, in the way of others of their names

	// Of the goroutine that compares.
	said    map[string]saying    // what was logged of a stream last
	stepped map[string]time.Time // when it was tried to give up a stream's lead
	rewound map[string]bool      // consumers that have gone back, by stream, life and name
	next    time.Time            // when replicas or leftovers may be taken away again
	pause   time.Duration        // after it
}

// saying is what was logged, and when.
type saying struct {
	text string
	at   time.Time
}

// beginReview is what a member has noted before, and what a crash adds to it. crashed says that its machine has.
func (e *embedded) beginReview(crashed bool) (*review, error) {
	r := &review{
		poked: map[string]time.Time{}, heard: map[string]time.Time{}, began: time.Now(), leftovers: map[configOf]bool{}, lives: map[string]string{},
		said: map[string]saying{}, stepped: map[string]time.Time{}, rewound: map[string]bool{},
	}
	path := filepath.Join(e.dir, crashFile)
	text, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(text, &r.record) != nil {
		return nil, fmt.Errorf("%s can't be read: give this member an empty directory, which the others fill", path)
	}
	if err = ignoreAbsence(err); err != nil {
		return nil, storeError(e.dir, err)
	}
	if r.record.Suspects == nil {
		r.record.Suspects = map[string]*suspect{}
	}
	if boot := bootOf(e.dir); crashed && !sameBoot(r.record.Boot, boot) {
		r.record.ID, r.record.Boot = newCrashID(), boot
		names, err := subdirs(e.streamsDir())
		for _, name := range names {
			err = errors.Join(err, r.add(name, filepath.Join(e.streamsDir(), name)))
		}
		if err != nil {
			return nil, storeError(e.dir, err)
		}
	}
	if err := errors.Join(e.removeAside(r), e.noteReview(r)); err != nil {
		return nil, storeError(e.dir, err)
	}
	return r, nil
}

// newCrashID tells crashes apart.
func newCrashID() string { return rand.Text()[:8] }

// createdOf reads when the stream or the consumer in a directory was created.
func createdOf(dir string) (time.Time, error) {
	var meta struct {
		Created time.Time `json:"Created"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "meta.inf"))
	if err == nil && json.Unmarshal(text, &meta) != nil {
		err = fs.ErrNotExist // a crash has left it so: the server has it filled anew
	}
	return meta.Created, err
}

// add suspects the replica in a directory, by what it ends with: the machine has crashed, or the cluster's log was another one's. r.mu is held, or
// nobody else has r.
func (r *review) add(name, dir string) error {
	created, err := createdOf(dir)
	if err = ignoreAbsence(err); err != nil {
		return err
	}
	marks, readable, err := marksOf(dir)
	if err != nil {
		return err
	}
	p := r.record.Suspects[name]
	if p == nil || !p.Created.Equal(created) {
		p = &suspect{Created: created}
		r.record.Suspects[name] = p
	}
	if p.Replaced { // what replaces it may have lost its end, or it is back itself
		p.Replaced, p.Differs, p.Marks = false, false, nil
	}
	p.Crash, p.Sound = r.record.ID, ""
	end := uint64(0)
	if len(marks) > 0 {
		end = marks[len(marks)-1].Seq
	}
	if !p.Ended || end < p.Least {
		p.Ended, p.Least = true, end
	}
	p.Since, p.End = r.began, end
	p.Marks = append(p.Marks, marks...)
	slices.SortFunc(p.Marks, func(a, b mark) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Time, b.Time)) })
	p.Marks = slices.Compact(p.Marks)
	p.Differs = p.Differs || !readable
	return nil
}

// marksOf reads what a replica ends with. readable is false where that isn't known.
func marksOf(dir string) (marks []mark, readable bool, err error) {
	files, err := glob(dir, messageFiles)
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(blockNumber(b), blockNumber(a)) })
	for _, path := range files[:min(marksFiles, len(files))] {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, false, err
		}
		if bytes.HasPrefix(text, []byte(blockPacked)) {
			return marks, len(marks) > 0, nil
		}
		b, err := newBlock(filepath.Base(dir), strconv.Itoa(blockNumber(path)), text)
		if err != nil {
			return nil, false, err
		}
		var here []mark
		b.messages(func(seq uint64, at int64, _ []byte) { here = append(here, mark{seq, at}) })
		marks = append(here[max(0, len(here)-marksLeast):], marks...)
		if len(marks) >= marksLeast {
			break
		}
	}
	return marks, true, nil
}

// behind reads what a replica holds behind a sequence, of a server that runs: what its log has added to what a crash has left, and
// what is new since. Of these it returns the last ones before the time of the crash, more or less, as clocks differ, and the last sequence that
// is written.
func behind(dir string, after uint64, crash time.Time) (marks []mark, last uint64, err error) {
	files, err := glob(dir, messageFiles)
	if err != nil {
		return nil, 0, err
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Compare(blockNumber(b), blockNumber(a)) })
	var all []mark
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil || bytes.HasPrefix(text, []byte(blockPacked)) {
			return nil, math.MaxUint64, ignoreAbsence(err)
		}
		b, err := newBlock(filepath.Base(dir), strconv.Itoa(blockNumber(path)), text)
		if err != nil {
			return nil, 0, err
		}
		first := uint64(0)
		b.messages(func(seq uint64, at int64, _ []byte) {
			if first == 0 {
				first = seq
			}
			last = max(last, seq)
			if seq > after {
				all = append(all, mark{seq, at})
			}
		})
		if first > 0 && first <= after {
			break
		}
	}
	for _, differ := range clocksDiffer {
		latest := mark{}
		for _, m := range all {
			if time.Unix(0, m.Time).Before(crash.Add(differ)) && m.Seq > latest.Seq {
				latest = m
			}
		}
		if latest.Seq > 0 && !slices.Contains(marks, latest) {
			marks = append(marks, latest)
		}
	}
	return marks, last, nil
}

// clocksDiffer is by how much the clocks of members may.
var clocksDiffer = []time.Duration{-2 * time.Minute, -10 * time.Second, -time.Second, 0, time.Second, 10 * time.Second, 2 * time.Minute, math.MaxInt64 / 2}

func blockNumber(path string) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk")) // others aren't the server's
	return n
}

// noteReview records what is suspected. r.mu is held, or nobody else has r.
func (e *embedded) noteReview(r *review) error {
	path := filepath.Join(e.dir, crashFile)
	if len(r.record.Suspects) == 0 && r.record.Log == nil {
		return ignoreAbsence(os.Remove(path)) // with the next one the crash is another one
	}
	text, err := json.Marshal(r.record)
	if err != nil {
		return err
	}
	return replaceFile(path, text)
}

// suspectOf is what is suspected of a stream's replica; nil: nothing.
func (r *review) suspectOf(name string) *suspect {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.record.Suspects[name]
}

// life is the last one that a stream is known to have had. It remembers what the metadata says.
func (r *review) life(i *streamInfo) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := i.Config.Metadata[lifeKey]
	if now == "" && len(r.lives) == 0 {
		return ""
	}
	key := fmt.Sprint(i.Config.Name, " ", i.Created.UnixNano())
	if known := r.lives[key]; known > now && len(known) >= len(now) || len(known) > len(now) {
		return known
	}
	if now != "" {
		r.lives[key] = now
	}
	return now
}

// note changes what is known of a suspect, and records it: that it is sound by save.
func (e *embedded) note(p *suspect, change func()) error {
	e.review.mu.Lock()
	defer e.review.mu.Unlock()
	was := *p
	change()
	if was.Differs == p.Differs && was.Replaced == p.Replaced && was.Misled == p.Misled {
		e.review.unsaved = e.review.unsaved || was.Sound != p.Sound
		return nil
	}
	return e.noteReview(e.review)
}

// suspectReplica suspects the replica of a member whose machine hasn't crashed: it has what the others have lost.
func (e *embedded) suspectReplica(name string, created time.Time) error {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	e.log.Warn("natsbus: the machines of other members have crashed; this member's replica is made anew, as it may have what they have lost", "stream", name)
	r.record.Suspects[name] = &suspect{Crash: newCrashID(), Created: created, Differs: true, Misled: true}
	return e.noteReview(r)
}

// acquit suspects a replica no more. That is recorded by save: until then nothing is lost but another look.
func (e *embedded) acquit(name, because string) {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Suspects[name] != nil {
		delete(r.record.Suspects, name)
		r.unsaved = true
		e.log.Info("natsbus: a replica isn't suspected any more", "stream", name, "because", because)
	}
}

// save records what acquit has done, and removes what was taken away.
func (e *embedded) save() error {
	r := e.review
	r.mu.Lock()
	unsaved := r.unsaved
	err := error(nil)
	if unsaved {
		err = e.noteReview(r)
		r.unsaved = err != nil
	}
	r.mu.Unlock()
	if unsaved && err == nil {
		err = e.removeAside(r)
	}
	return err
}

// removeAside removes what was taken away for nobody's sake any more.
func (e *embedded) removeAside(r *review) error {
	aside, err := subdirs(filepath.Join(e.dir, asideDir))
	for _, name := range aside {
		if r.suspectOf(name) == nil {
			err = errors.Join(err, os.RemoveAll(filepath.Join(e.dir, asideDir, name)))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.record.Log == nil {
		err = errors.Join(err, os.RemoveAll(filepath.Join(e.dir, asideDir, logAside)))
	}
	return err
}

// differing names the streams of which this member's replica isn't what the leader has, as far as is known.
func (e *embedded) differing() (names []string) {
	r := e.review
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range sortedKeys(r.record.Suspects) {
		if p := r.record.Suspects[name]; (p.Differs || p.Replaced) && p.Sound == "" {
			names = append(names, name)
		}
	}
	return names
}

// leftoverWarning is what the server says of a consumer that it can't make, as it has another one of the name: its store tells of what the
// cluster's log has lost. It doesn't get better by itself, and once this member leads the consumer's group, that stands still.
var leftoverWarning = regexp.MustCompile(`^Consumer create failed during update for '\$G > (\S+) > (\S+)': .* can not be updated$`)

// heed notes what the server says of a leftover.
func (r *review) heed(text string) {
	if found := leftoverWarning.FindStringSubmatch(text); found != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.leftovers[configOf{found[1], found[2]}] = true
	}
}
