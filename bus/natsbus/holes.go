package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus/driver"
)

// manyMissing is how many sequences may be missing from the middle of a stream before all of it is read to find them.
const manyMissing = 1000

// holesOf returns the holes that missing sequences, ascending, are between two others.
func holesOf(missing []uint64, after, through uint64) (holes []driver.Hole) {
	from, _ := slices.BinarySearch(missing, after+1)
	for _, seq := range missing[from:] {
		if seq > through {
			break
		}
		if n := len(holes); n > 0 && holes[n-1].Before == seq {
			holes[n-1].Before = seq + 1
			continue
		}
		holes = append(holes, driver.Hole{After: seq - 1, Before: seq + 1})
	}
	return holes
}

// passedOver reports whether the server has passed over a message that it has and can't read any more: the disk has
// changed under it, of which it says nothing. The store is ours, so what isn't there has gone or is damaged.
func (b *backend) passedOver(ctx context.Context, s driver.Stream, q driver.Query, r *getResult, batch *driver.Batch, info *streamInfo) (bool, error) {
	if info.Config.MaxMsgsPerSubject <= 0 && coversAll(q.Pattern, s.Config.Subjects) {
		seq := firstAbsent(batch, max(q.After, info.first()-1), info.State.Missing)
		if seq == 0 {
			return false, nil
		}
		// It may be of a subject that the stream captured once.
		there, err := b.get(ctx, s.Config.Name, getRequest{Seq: seq, Next: ">", Batch: 1})
		return err == nil && (len(there.messages) == 0 || there.last() > seq) && seq <= info.State.Last, err
	}
	switch {
	case len(r.messages) == 0:
		return b.unreadBetween(ctx, s, q)
	case len(batch.Messages) == 0, r.total == 0:
		return false, nil
	}
	behind, err := b.get(ctx, s.Config.Name, getRequest{Seq: batch.Through + 1, Next: q.Pattern, Batch: 1})
	if err != nil || behind.guessed {
		return false, err
	}
	rest := uint64(0)
	if len(behind.messages) > 0 {
		rest = behind.pending + 1
	}
	return r.total > rest+uint64(len(batch.Messages)), nil
}

// unreadBetween reports whether there are messages that match, where none could be read. The server knows the last of each
// subject without reading it; where there are too many of them, it counts what is before a consumer.
func (b *backend) unreadBetween(ctx context.Context, s driver.Stream, q driver.Query) (bool, error) {
	last, err := b.get(ctx, s.Config.Name, getRequest{Seq: q.After + 1, Last: []string{q.Pattern}, UpTo: q.UpTo, Batch: 1})
	switch {
	case errors.Is(err, errUnread):
		return true, nil
	case err == nil:
		return len(last.messages) > 0, nil
	case !errors.Is(err, errTooMany):
		return false, err
	}
	var answer struct {
		Pending uint64 `json:"num_pending"`
	}
	name := readerName("count", b.rc.NewInbox())
	err = b.ask(ctx, "$JS.API.CONSUMER.CREATE."+s.Config.Name+"."+name, readerOf(s.Config.Name, name, q.Pattern, q.After+1), &answer)
	if err != nil {
		return false, err
	}
	b.removeConsumer(s.Config.Name, name)
	behind, err := b.get(ctx, s.Config.Name, getRequest{Seq: q.UpTo + 1, Next: q.Pattern, Batch: 1})
	return err == nil && answer.Pending > behind.total, err
}

func coversAll(pattern string, subjects []string) bool {
	return !slices.ContainsFunc(subjects, func(subject string) bool { return !driver.Covers(pattern, subject) })
}

// firstAbsent returns the first sequence behind another one that isn't in a batch and not known to be missing; 0: there is none.
func firstAbsent(batch *driver.Batch, after uint64, missing []uint64) uint64 {
	next := after + 1
	absent := func(before uint64) uint64 {
		for ; next < before; next++ {
			if _, known := slices.BinarySearch(missing, next); !known {
				return next
			}
		}
		return 0
	}
	for _, m := range batch.Messages {
		if seq := absent(m.Cursor.Sequence()); seq > 0 {
			return seq
		}
		next = max(next, m.Cursor.Sequence()+1)
	}
	return absent(batch.Through + 1)
}

// suspectEvery is how often files of a stream are looked at while the server runs.
const suspectEvery = time.Minute

// suspect has the files looked at that hold messages of a stream between two sequences, while the server runs, and the
// store mended if they are damaged. It doesn't wait.
func (e *embedded) suspect(stream string, after, through uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.critical != "" || time.Since(e.suspected[stream]) < suspectEvery {
		return
	}
	if e.suspected == nil {
		e.suspected = map[string]time.Time{}
	}
	e.suspected[stream] = time.Now()
	select {
	case <-e.stopping:
	default:
		e.healing.Go(func() { e.look(stream, after, through) })
	}
}

// look looks at the files that suspect names.
func (e *embedded) look(stream string, after, through uint64) {
	ctx, cancel := e.untilStopped()
	defer cancel()
	files, err := filesBetween(filepath.Join(e.streamsDir(), stream, "msgs"), after, through)
	damaged := false
	for _, path := range files {
		if err == nil {
			var found bool
			found, err = e.lookAt(ctx, path)
			damaged = damaged || found
		}
	}
	switch {
	case err != nil && ctx.Err() == nil:
		e.broken(fmt.Sprintf("the files of stream %s can't be read: %s", stream, err))
	case err == nil && !damaged:
		e.log.Debug("natsbus: what a read didn't find has gone, and the files are whole", "stream", stream)
	}
}

// lookAgain lies between two looks at a file.
const lookAgain = 100 * time.Millisecond

// lookAt looks at a file, while the server runs, and has the store mended if it is damaged. It looks twice: what the server
// was just writing the first time is whole then. What is at the end of a file counts only if nothing was written to it in between.
func (e *embedded) lookAt(ctx context.Context, path string) (damaged bool, err error) {
	var before fs.FileInfo
	for look := range 2 {
		if look > 0 && !sleep(ctx, lookAgain) {
			return false, ctx.Err()
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // the server has removed it
		}
		if err != nil {
			return false, err
		}
		c := check{torn: look > 0 && (info.Size() != before.Size() || !info.ModTime().Equal(before.ModTime()))}
		if _, damaged, err := c.file(path); err != nil || !damaged {
			return false, err
		}
		before = info
	}
	e.damaged(path)
	return true, nil
}

// leastPause lies between two files of a round.
const leastPause = 10 * time.Millisecond

// scrub looks at all files in turn, spread over the time that a round takes: damage of what nobody reads is found, and that of
// messages that a reader has been led past. It begins anywhere, since a program may be started anew more often than a round ends.
func (e *embedded) scrub(round time.Duration) {
	ctx, cancel := e.untilStopped()
	defer cancel()
	said := ""
	begin, place := rand.Float64(), rand.Float64()
	for {
		files, err := glob(e.streamsDir(), "*/"+messageFiles)
		n := max(1, len(files))
		first := int(place * float64(n))
		pause := max(leastPause, round/time.Duration(n))
		for i := range n {
			if !sleep(ctx, time.Duration(float64(pause)*(1-begin))) {
				return
			}
			begin = 0
			if i < len(files) && e.failure() == nil {
				_, err = e.lookAt(ctx, files[(first+i)%n])
			}
			if err != nil && err.Error() != said && ctx.Err() == nil {
				said = err.Error()
				e.log.Warn("natsbus: a file of the store can't be looked at", "dir", e.dir, "error", err)
			}
		}
	}
}

// filesBetween returns the files of a stream that may hold messages between two sequences.
func filesBetween(dir string, after, through uint64) (files []string, err error) {
	all, err := glob(dir, "*.blk")
	number := func(path string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk")) // a name that is none comes first
		return n
	}
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(number(x), number(y)) })
	for i, path := range all {
		if firstOf(path) > through {
			break
		}
		behind := uint64(0)
		if i+1 < len(all) {
			behind = firstOf(all[i+1])
		}
		if behind == 0 || behind > after+1 {
			files = append(files, path)
		}
	}
	return files, err
}
