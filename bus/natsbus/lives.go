package natsbus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus/driver"
)

const (
	livesFile = "jitney.lives"
	marksFile = "jitney.marks"
	markSize  = 8
)

// lives knows when a stream has lost its end, after which its sequences are given a second time: by a crash of the
// machine or of the file system that the disk wasn't ready for, or by damage, which the server passes over in silence. The
// stream then begins another life, and so another epoch.
type lives struct {
	dir     string
	clean   bool      // when it was opened, the store had been closed
	since   time.Time // that it has been, if so
	crashed bool      // the end of any stream may be lost since the last time, and nothing is there to tell
	marks   *os.File  // the last sequence of each stream, by its place in the file

	was  livesRecord // when it was opened
	boot string      // what bootOf says of dir

	mu     sync.RWMutex
	known  map[string]*life
	begun  bool     // the streams are compared with it. Until then it says what it said before
	more   bool     // is known than is recorded
	found  []damage // that the hook of the bus isn't told of yet
	failed int64    // as recorded in livesRecord
	closed bool     // the directory may be another one's: nothing is written any more

	saving sync.Mutex // before mu
}

// life is one life of a stream.
type life struct {
	Created int64  `json:"created"` // ns
	Number  uint64 `json:"number"`  // from 0
	Place   int64  `json:"place"`   // of its mark
	Holes   []hole `json:"holes,omitempty"`

	mu   sync.Mutex
	last uint64 // as marked
}

// hole is where damage has taken messages out of a stream, between two sequences.
type hole struct {
	After  uint64 `json:"after"`
	Before uint64 `json:"before"`
}

// mostHoles is how many of a stream are remembered, the newest ones.
const mostHoles = 1000

// lost remembers what was damaged: where a limit per subject takes messages out as well, nothing else tells.
func (l *lives) lost(found []damage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.more = l.more || len(found) > 0
	l.found = append(l.found, found...)
	for _, d := range found {
		if known := l.known[d.stream]; known != nil && d.before > 0 {
			known.Holes = append(known.Holes, hole{d.after, d.before})
			known.Holes = known.Holes[max(0, len(known.Holes)-mostHoles):]
		}
	}
}

// told records that the hook has been told of the first n that were found.
func (l *lives) told(n int) error {
	l.mu.Lock()
	l.found = slices.Delete(l.found, 0, min(n, len(l.found)))
	l.mu.Unlock()
	return l.save(true)
}

// unsaved reports whether more is known than is recorded.
func (l *lives) unsaved() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.more
}

// holes returns what damage has taken between two sequences of a stream.
func (l *lives) holes(name string, after, through uint64) (holes []driver.Hole) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if known := l.known[name]; known != nil {
		for _, h := range known.Holes {
			if h.Before > after+1 && h.After < through {
				holes = append(holes, driver.Hole{After: max(h.After, after), Before: h.Before})
			}
		}
	}
	return holes
}

// another begins another life. Its number is the time: a state that is put back twice has two.
func (l *life) another() { l.Number = max(l.Number+1, uint64(time.Now().UnixNano())) }

// livesRecord is what livesFile holds.
type livesRecord struct {
	Open    bool             `json:"open"`             // no clean stop since
	Closed  int64            `json:"closed,omitempty"` // ns
	Boot    string           `json:"boot"`             // what bootOf says of dir
	Failed  int64            `json:"failed,omitempty"` // ns, when the disk didn't take what was written before, which isn't written anew yet
	Place   string           `json:"place,omitempty"`  // of marksFile, which a copy doesn't have
	Born    string           `json:"born,omitempty"`   // what bornOf says of the file itself; empty: nothing
	Streams map[string]*life `json:"streams"`
	Found   []foundDamage    `json:"found,omitempty"` // and told to nobody
}

// foundDamage is a damage.
type foundDamage struct {
	Stream string `json:"stream"`
	hole
	Path string `json:"path"`
	Kept string `json:"kept"`
}

// openLives reads what is known of the streams before the server opens them. fresh says that there are none.
func openLives(dir string, fresh bool) (*lives, error) {
	record := livesRecord{Streams: map[string]*life{}}
	text, born, err := readBorn(filepath.Join(dir, livesFile))
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && fresh) {
		record.Open, record.Boot = true, "" // nothing is known, as of a copy that was put back without the record
	}
	l := &lives{dir: dir, was: record, clean: !record.Open && record.Failed == 0, since: time.Unix(0, record.Closed), known: map[string]*life{}, boot: bootOf(dir)}
	if l.marks, err = os.OpenFile(filepath.Join(dir, marksFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	for _, f := range record.Found {
		l.found = append(l.found, damage{f.Stream, f.After, f.Before, f.Path, f.Kept})
	}
	for name, known := range record.Streams {
		var mark [markSize]byte
		if _, err := l.marks.ReadAt(mark[:], known.Place*markSize); err == nil {
			known.last = binary.LittleEndian.Uint64(mark[:])
		}
		l.known[name] = known
	}
	told := record.Born != "" && born != ""
	place, changed := placeOf(l.marks)
	moved := record.Place != "" && record.Place != place && (record.Open || !told && changed.After(l.since))
	if moved || told && record.Born != born {
		l.clean, l.crashed = false, true // an older state may have been put back
	}
	// A crash may have taken what was handed out, also the marks. So may the system what the disk hadn't taken: it is clean to it.
	l.failed = record.Failed
	l.crashed = l.crashed || l.failed > 0 || record.Open && (record.Boot == "" || !sameBoot(record.Boot, l.boot))
	return l, nil
}

// sameBoot reports whether nothing has begun anew between what bootOf has said twice, as far as is known.
func sameBoot(was, now string) bool {
	wasID, wasMount, _ := strings.Cut(strings.TrimSpace(was), " ")
	nowID, nowMount, _ := strings.Cut(strings.TrimSpace(now), " ")
	return wasID == nowID && (wasMount == nowMount || wasMount == "" || nowMount == "")
}

// refused records that the disk has refused what was written, so that it is known if the process is killed before the disk has it. The
// record is left to the system, as that is: it comes to nothing only with it.
func (l *lives) refused(at time.Time) error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	l.failed, l.more = max(1, at.UnixNano()), true // some time ago, whenever
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil
	}
	path := filepath.Join(l.dir, livesFile)
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	text, err := l.text(true, bornOf(f))
	if err == nil {
		_, err = f.Write(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

// written says that the disk has what it had refused. The caller saves it.
func (l *lives) written() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.more = 0, true
}

// begin compares what the streams hold with what they held.
func (l *lives) begin(streams []server.StreamDetail) (lost []string, err error) {
	lost, err = l.compare(streams, l.crashed)
	if err == nil {
		l.mu.Lock()
		l.begun, l.failed = true, 0
		l.mu.Unlock()
		err = l.save(true)
	}
	return lost, err
}

// compare begins another life of the streams that have lost their end, or may have, and says which.
func (l *lives) compare(streams []server.StreamDetail, crashed bool) (lost []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[string]bool{}
	for _, s := range streams {
		there[s.Name] = true
		lostEnd, err := l.compareOneLocked(s, crashed)
		if err != nil {
			return nil, err
		}
		if lostEnd != "" {
			lost = append(lost, lostEnd)
		}
	}
	for name := range l.known {
		if !there[name] {
			delete(l.known, name)
		}
	}
	return lost, nil
}

func (l *lives) compareOneLocked(s server.StreamDetail, crashed bool) (lost string, err error) {
	known := l.known[s.Name]
	added := known == nil || known.Created != s.Created.UnixNano()
	if added {
		life := ""
		if s.Config != nil {
			life = s.Config.Metadata[lifeKey]
		}
		l.add(s.Name, s.Created, life)
		known = l.known[s.Name]
	}
	known.mu.Lock() // what was on its way when the store failed may still be given to somebody
	defer known.mu.Unlock()
	if !added && (crashed || s.State.LastSeq < known.last) {
		lost = fmt.Sprintf("%s (at %d, was at %d)", s.Name, s.State.LastSeq, known.last)
	}
	if lost != "" || crashed { // one that wasn't known may have had any number of lives
		known.another()
	}
	known.last = s.State.LastSeq
	return lost, l.write(known)
}

// add makes a stream known, in the life that its metadata tells, if it does: somebody may have made it with another one's. Its place is
// a free one.
func (l *lives) add(name string, created time.Time, life string) {
	used := map[int64]bool{}
	for other, known := range l.known {
		used[known.Place] = other != name
	}
	place := int64(0)
	for used[place] {
		place++
	}
	l.known[name] = newKnown(created, place, life)
}

func newKnown(created time.Time, place int64, told string) *life {
	number, err := strconv.ParseUint(told, 36, 64)
	if err != nil || strconv.FormatUint(number, 36) != told {
		number = 0 // it isn't ours
	}
	return &life{Created: created.UnixNano(), Number: number, Place: place}
}

// save records what is known. open says that the store is in use.
func (l *lives) save(open bool) error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	closed := l.closed
	l.more = false
	l.mu.Unlock()
	if closed {
		return nil
	}
	err := l.record(open)
	if err != nil {
		l.mu.Lock()
		l.more = true
		l.mu.Unlock()
	}
	return err
}

// record writes it. l.saving is held.
func (l *lives) record(open bool) error {
	path, born := filepath.Join(l.dir, livesFile), ""
	err := replaceFileBy(path, func(f *os.File) ([]byte, error) {
		born = bornOf(f)
		return l.text(open, born)
	})
	if err != nil || born == "" {
		return err
	}
	// Some file systems give a file the time of the one that it replaces (file tunneling of Windows servers).
	_, now, err := readBorn(path)
	if err == nil && now != born {
		err = replaceFileBy(path, func(*os.File) ([]byte, error) { return l.text(open, "") })
	}
	return err
}

func (l *lives) text(open bool, born string) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	record := l.was
	switch {
	case l.begun:
		place, _ := placeOf(l.marks)
		record = livesRecord{Open: open, Closed: time.Now().UnixNano(), Boot: l.boot, Place: place}
	case l.crashed:
		record.Open, record.Boot = true, "" // also if the file doesn't tell it any more
	}
	record.Born, record.Streams, record.Found, record.Failed = born, l.known, nil, l.failed
	for _, d := range l.found {
		record.Found = append(record.Found, foundDamage{d.stream, hole{d.after, d.before}, d.path, d.kept})
	}
	return json.Marshal(record)
}

// readBorn reads a file, and what bornOf says of it.
func readBorn(path string) (text []byte, born string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	text, err = io.ReadAll(f)
	return text, bornOf(f), errors.Join(err, f.Close())
}

// epoch of a stream that was created at a time. Clients of the server make the same of its metadata.
func (l *lives) epoch(name string, created time.Time) string {
	return epochOf(created, l.life(name, created))
}

// life is the number of a stream's life as its metadata is to tell it; empty: it has had no other one.
func (l *lives) life(name string, created time.Time) string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if known := l.known[name]; known != nil && known.Created == created.UnixNano() && known.Number > 0 {
		return strconv.FormatUint(known.Number, 36)
	}
	return ""
}

// epochOf is the epoch of a stream that was created at a time, in one of its lives.
func epochOf(created time.Time, life string) string {
	epoch := strconv.FormatInt(created.UnixNano(), 36)
	if life != "" {
		epoch += "-" + life
	}
	return epoch
}

// created makes a stream known that has just been created, in the life that its metadata tells.
func (l *lives) created(name string, created time.Time, life string) error {
	l.mu.RLock()
	known := l.known[name]
	l.mu.RUnlock()
	if known != nil && known.Created == created.UnixNano() {
		return nil
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil // its caller has gone
	}
	l.add(name, created, life)
	err := l.write(l.known[name])
	l.mu.Unlock()
	return errors.Join(err, l.save(true))
}

// reached marks that a stream has given a sequence to somebody. The mark is in the system's hands
// when it returns, so that it outlives a kill.
func (l *lives) reached(name string, sequence uint64) error {
	l.mu.RLock()
	known := l.known[name]
	if l.closed {
		known = nil
	}
	l.mu.RUnlock()
	if known == nil {
		return nil
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	if sequence <= known.last {
		return nil
	}
	known.last = sequence
	return l.write(known)
}

func (l *lives) write(known *life) error {
	var mark [markSize]byte
	binary.LittleEndian.PutUint64(mark[:], known.last)
	_, err := l.marks.WriteAt(mark[:], known.Place*markSize)
	return err
}

// close records a clean stop, or leaves the record as after a crash, and after a start that has failed as it was.
func (l *lives) close(clean bool) error {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	return errors.Join(l.record(!clean), l.marks.Close())
}
