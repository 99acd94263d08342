package natsbus

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus"
)

// The server's files of messages are records, one after the other (writeMsgRecordLocked in server/filestore.go of
// nats-server 2.15), little-endian:
//
//	4  length of the record; the highest bit says that there is a header
//	8  sequence; the highest bit says that the message is erased, the next one that the record is of a removal
//	8  time
//	2  length of the subject
//	   subject
//	4  length of the header, if there is one
//	   header, data
//	8  hash of all but the lengths
const (
	recordHead   = 4 + 8 + 8 + 2
	recordHash   = 8
	recordMost   = 32 << 20
	recordHeader = 1 << 31 // of a length
	recordErased = 1 << 63 // of a sequence
	recordNone   = 1 << 62 // of a sequence
	blockPacked  = "cmp"   // how a compressed file begins

	// sequenceJump is how much higher than the one before a sequence may be in the first record behind damage, and
	// sequenceMost how high where none was before.
	sequenceJump = 1 << 32
	sequenceMost = 1 << 48
)

// keptDir is where files are kept as they were before damage was taken out of them, in the store's directory.
const keptDir = "damaged"

// damage is a place in a stream where messages can't be read any more.
type damage struct {
	stream        string
	after, before uint64 // the sequences around it; before is 0 if the file ends with it
	path          string // of the file
	kept          string // of the file as it was
}

func (d damage) String() string {
	if d.before == 0 {
		return fmt.Sprintf("stream %s from %d on (%s)", d.stream, d.after+1, d.kept)
	}
	return fmt.Sprintf("stream %s from %d to %d (%s)", d.stream, d.after+1, d.before-1, d.kept)
}

// inspect looks at the store before the server opens it, and mends what is damaged: in one of its own, that is. What a member of
// a cluster has lost the others have.
func (e *embedded) inspect(ctx context.Context) error {
	if e.cfg.Cluster != nil {
		c := check{dir: filepath.Join(e.dir, storeDir), blocks: "*/streams/*/" + messageFiles, torn: true}
		found, err := c.run(ctx)
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("%w: %s is damaged: give this member an empty directory, which the others fill", bus.ErrUnavailable, found[0].path)
		}
		return err
	}
	e.copies = &copies{dir: filepath.Join(e.dir, copiesDir), streams: e.streamsDir()}
	streams, err := subdirs(e.streamsDir())
	if err == nil {
		e.lives, err = openLives(e.dir, len(streams) == 0)
	}
	if err != nil {
		return storeError(e.dir, err)
	}
	if err := e.takeOver(ctx); err != nil {
		return err
	}
	since := e.lives.since.Add(-clockTick)
	if !e.lives.clean {
		since = time.Time{}
	}
	e.foundLocked(e.lives.found) // by a start that has failed, or a process that was killed
	return e.mend(ctx, since, !e.lives.clean)
}

// streamsDir is where the server has its streams.
func (e *embedded) streamsDir() string {
	return filepath.Join(e.dir, storeDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams")
}

// mend mends what is damaged of what has changed since a time; torn says that the last records may be half written. The
// server must not run. What is found is kept until it is told, also when something else can't be mended: the next time it isn't found any more.
func (e *embedded) mend(ctx context.Context, since time.Time, torn bool) error {
	mended, lost, err := e.copies.mend()
	if err != nil {
		return storeError(e.dir, err)
	}
	for _, of := range mended {
		e.log.Warn("natsbus: a damaged configuration was replaced by its copy", "dir", e.dir, "stream", of.stream, "consumer", of.consumer)
	}
	e.mu.Lock()
	doubtful := slices.Clone(e.doubtful)
	e.mu.Unlock()
	c := check{dir: e.streamsDir(), blocks: "*/" + messageFiles, since: since, also: doubtful, torn: torn, kept: filepath.Join(e.dir, keptDir)}
	found, err := c.run(ctx)
	for _, d := range found {
		e.log.Error("natsbus: messages are damaged", "stream", d.stream, "after", d.after, "before", d.before, "kept", d.kept)
	}
	e.lives.lost(found)
	if len(found) > 0 { // before a kill, or something that fails
		err = errors.Join(err, e.lives.save(true))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.foundLocked(found)
	if err != nil {
		return fmt.Errorf("%w: the store in %s can't be checked: %w", bus.ErrUnavailable, e.dir, err)
	}
	e.doubtful = slices.DeleteFunc(e.doubtful, func(path string) bool { return slices.Contains(doubtful, path) })
	e.lost = map[string]bool{}
	for _, stream := range lost {
		e.lost[stream] = true
		e.log.Error("natsbus: the configuration of a stream is damaged: it can't be read until EnsureStreams makes it again", "dir", e.dir, "stream", stream)
	}
	return nil
}

// foundLocked notes damage. e.mu is held, or nobody else has e yet.
func (e *embedded) foundLocked(found []damage) {
	e.damages, e.untold = append(e.damages, found...), append(e.untold, found...)
}

// made returns when a stream or a consumer that the server has just made or changed is on the disk, and copied.
func (e *embedded) made(ctx context.Context, of configOf) error {
	e.mu.Lock()
	if of.consumer == "" {
		delete(e.lost, of.stream)
	}
	e.mu.Unlock()
	// The server leaves a new stream to the system, and with it all that is synced in its files.
	if err := e.syncAll(ctx); err != nil {
		return err
	}
	if err := e.copies.keep(of); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	return nil
}

// removed returns when a power cut doesn't bring back what the server has just removed.
func (e *embedded) removed(ctx context.Context, of configOf) error {
	e.mu.Lock()
	if of.consumer == "" {
		delete(e.lost, of.stream)
	}
	e.mu.Unlock()
	if of.consumer == "" && e.commits != nil {
		e.commits.remove(of.stream)
	}
	return e.syncAll(ctx)
}

// harm is what of the store can't be delivered any more.
func (e *embedded) harm() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var what []string
	for stream := range e.lost {
		what = append(what, "the configuration of stream "+stream+" (EnsureStreams makes it again)")
	}
	slices.Sort(what)
	for _, d := range e.damages {
		what = append(what, "messages of "+d.String())
	}
	if len(what) == 0 {
		return nil
	}
	const most = 10
	if n := len(what); n > most {
		what = append(what[:most], fmt.Sprintf("and %d more", n-most))
	}
	return fmt.Errorf("%w: the store in %s was damaged: %s", bus.ErrUnavailable, e.dir, strings.Join(what, "; "))
}

// check looks for damage in the files of messages.
type check struct {
	dir    string    // below which the files are
	blocks string    // which are looked at, as a pattern of glob
	since  time.Time // files that haven't changed since are taken for whole
	also   []string  // paths of files that are looked at all the same
	torn   bool      // the store wasn't closed, so that the last record of a stream may be half written, except in also
	kept   string    // where files are kept as they were; empty: nothing is changed
}

// run takes out of the files what is damaged. The server, which must not run, doesn't survive each damage: it
// asks for all memory of the machine when a sequence is damaged, passes over a damaged message or over all that come behind it
// in the file, and says nothing of either (nats-server#7549).
func (c *check) run(ctx context.Context) ([]damage, error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	found, errs := make([][]damage, len(files)), make([]error, len(files))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(files)) {
		workers.Go(func() {
			for i := range next {
				if errs[i] = ctx.Err(); errs[i] == nil {
					found[i], _, errs[i] = c.file(files[i])
				}
			}
		})
	}
	for i := range files {
		next <- i
	}
	close(next)
	workers.Wait()
	all := slices.Concat(found...)
	slices.SortFunc(all, func(a, b damage) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.after, b.after))
	})
	return all, errors.Join(errs...)
}

// messageFiles are the files of messages in the directory of a stream.
const messageFiles = "msgs/*.blk"

// glob returns the paths below a directory that match a pattern of path.Match. What the directory itself is called doesn't matter.
func glob(dir, pattern string) ([]string, error) {
	found, err := fs.Glob(os.DirFS(dir), pattern)
	for i, name := range found {
		found[i] = filepath.Join(dir, filepath.FromSlash(name))
	}
	return found, err
}

// files returns the files to look at.
func (c *check) files() (files []string, err error) {
	all, err := glob(c.dir, c.blocks)
	if err != nil {
		return nil, err
	}
	for _, path := range all {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the server has removed it
		}
		if err != nil {
			return nil, err
		}
		if info.ModTime().After(c.since) || slices.Contains(c.also, path) {
			files = append(files, path)
		}
	}
	return files, nil
}

// file looks at one file, and reports which messages are gone, and whether anything wasn't whole: a length, for one, can be
// told from the rest.
func (c *check) file(path string) (lost []damage, damaged bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil || bytes.HasPrefix(text, []byte(blockPacked)) { // an operator has had it compressed
		return nil, false, err
	}
	dir := filepath.Dir(path)
	stream, number := filepath.Base(filepath.Dir(dir)), strings.TrimSuffix(filepath.Base(path), ".blk")
	b, err := newBlock(stream, number, text)
	if err != nil {
		return nil, false, err
	}
	b.read()
	if !b.changed {
		return nil, false, nil
	}
	next, err := nextBlock(dir, number)
	if err != nil {
		return nil, false, err
	}
	endOnly := next == "" && bytes.HasPrefix(text, b.whole)
	torn := endOnly && c.torn && !slices.Contains(c.also, path)
	if torn {
		b.lost = nil // nobody was told of what is half written
	}
	for i := range b.lost {
		if b.lost[i].before == 0 && next != "" {
			b.lost[i].before = firstOf(next)
		}
	}
	if c.kept == "" {
		for i := range b.lost {
			b.lost[i].path = path
		}
		return b.lost, !torn, nil
	}
	kept := filepath.Join(c.kept, fmt.Sprintf("%s-%s-%d.blk", stream, number, time.Now().UnixNano()))
	for i := range b.lost {
		b.lost[i].path, b.lost[i].kept = path, kept
	}
	if !endOnly { // of the end the index knows the last sequence, and the server that it is missing; of the rest it counts what is gone
		if err := os.Remove(filepath.Join(dir, "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, true, err // not behind what is next, which nothing tells the second time
		}
	}
	if err := exchange(path, kept, b.whole); err != nil {
		return nil, true, fmt.Errorf("%s is damaged and can't be mended: %w", path, err)
	}
	return b.lost, !torn, nil
}

// nextBlock returns the file with the next higher number, "" if there is none.
func nextBlock(dir, number string) (next string, err error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return "", err
	}
	all, err := glob(dir, "*.blk")
	nearest := math.MaxInt
	for _, path := range all {
		other, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk"))
		if err == nil && other > n && other < nearest {
			next, nearest = path, other
		}
	}
	return next, err
}

// firstOf returns the sequence with which a file begins, 0 if that isn't known.
func firstOf(path string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close() // nothing was written
	var head [recordHead]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0
	}
	if seq := binary.LittleEndian.Uint64(head[4:]); seq&(recordErased|recordNone) == 0 {
		return seq
	}
	return 0
}

// exchange puts text in the place of a file, which is kept elsewhere on the same file system.
func exchange(path, kept string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	fresh := kept + ".new" // beside path the server would take it for one of its own
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(path, kept)
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	return err
}

// block is a file that is being read.
type block struct {
	stream string
	text   []byte
	hash   hash.Hash
	last   uint64 // sequence

	changed bool
	whole   []byte // what is whole of text
	lost    []damage
}

func newBlock(stream, number string, text []byte) (*block, error) {
	key := sha256.Sum256([]byte(stream + "-" + number))
	h, err := highwayhash.New64(key[:])
	return &block{stream: stream, text: text, hash: h}, err
}

// read goes through the records.
func (b *block) read() {
	for at := 0; at < len(b.text); {
		n := b.record(b.text[at:])
		if n == 0 {
			n = b.damaged(at)
		} else {
			b.keep(at, b.mendHeader(b.text[at:at+n]))
		}
		at += n
	}
	if !b.changed {
		b.whole = b.text
	}
}

// keep has a record in what is whole, of which there is a copy only when it isn't all of text.
func (b *block) keep(at int, record []byte) {
	b.see(record)
	if b.changed {
		b.whole = append(b.whole, record...)
	} else if &record[0] != &b.text[at] {
		b.change(at)
		b.whole = append(b.whole, record...)
	}
}

// change says that what is whole differs from text from a place on.
func (b *block) change(at int) {
	if !b.changed {
		b.changed, b.whole = true, append(make([]byte, 0, len(b.text)), b.text[:at]...)
	}
}

// see remembers the sequence of a record.
func (b *block) see(record []byte) {
	if seq := binary.LittleEndian.Uint64(record[4:]); seq&recordNone == 0 {
		b.last = max(b.last, seq&^recordErased)
	}
}

// record returns the length of the record with which text begins, 0 if there is none that is whole.
func (b *block) record(text []byte) int {
	if len(text) < recordHead+recordHash {
		return 0
	}
	length := binary.LittleEndian.Uint32(text)
	n, subject := int(length&^recordHeader), int(binary.LittleEndian.Uint16(text[20:]))
	lengths := subject
	if length&recordHeader != 0 {
		lengths += 4
	}
	if n > len(text) || n > recordMost || recordHead+lengths > n-recordHash {
		return 0
	}
	b.hash.Reset()
	for _, part := range [][]byte{text[4:20], text[recordHead : recordHead+subject], text[recordHead+lengths : n-recordHash]} {
		_, _ = b.hash.Write(part) // a hash takes anything
	}
	var sum [recordHash]byte
	if !bytes.Equal(b.hash.Sum(sum[:0]), text[n-recordHash:n]) {
		return 0
	}
	return n
}

// damaged passes over what is no record, and returns its length.
func (b *block) damaged(at int) int {
	b.change(at)
	end := at + 1
	for end < len(b.text) && !b.begins(end) {
		end++
	}
	if mended := b.mendLength(b.text[at:end]); mended != nil {
		b.keep(at, mended)
		return end - at
	}
	d := damage{stream: b.stream, after: b.last}
	for next := end; next < len(b.text); {
		n := b.record(b.text[next:])
		if n == 0 {
			break
		}
		if seq := binary.LittleEndian.Uint64(b.text[next+4:]); seq&recordNone == 0 {
			d.before = seq &^ recordErased
			break
		}
		next += n
	}
	if d.before != d.after+1 { // otherwise it was no message
		b.lost = append(b.lost, d)
	}
	return end - at
}

// begins reports whether a record begins at a place behind damage. What looks like one by chance has an odd sequence, or
// a wrong hash, of which few have to be made.
func (b *block) begins(at int) bool {
	if len(b.text)-at < recordHead+recordHash {
		return false
	}
	seq := binary.LittleEndian.Uint64(b.text[at+4:])
	low, most := seq&^(recordErased|recordNone), b.last+sequenceJump
	if b.last == 0 {
		most = sequenceMost
	}
	if low > most || seq&recordNone == 0 && low <= b.last {
		return false
	}
	return b.record(b.text[at:]) > 0
}

// mendLength returns the record that text is if only its length is damaged, otherwise nil.
func (b *block) mendLength(text []byte) []byte {
	if len(text) < recordHead+recordHash || len(text) > recordMost {
		return nil
	}
	mended := bytes.Clone(text)
	for _, header := range []uint32{0, recordHeader} {
		binary.LittleEndian.PutUint32(mended, uint32(len(text))|header)
		if b.record(mended) > 0 {
			return b.mendHeader(mended)
		}
	}
	return nil
}

// mendHeader returns a record with the length of its header as it must be: no hash covers it, and the server would give out a
// part of the data as header, or the other way round.
func (b *block) mendHeader(record []byte) []byte {
	if binary.LittleEndian.Uint32(record)&recordHeader == 0 {
		return record
	}
	at := recordHead + int(binary.LittleEndian.Uint16(record[20:]))
	length, rest := int(binary.LittleEndian.Uint32(record[at:])), record[at+4:len(record)-recordHash]
	end := bytes.Index(rest, headerEnd) + len(headerEnd)
	if end == length || end < len(headerEnd) { // a client of another kind may have written anything
		return record
	}
	mended := bytes.Clone(record)
	binary.LittleEndian.PutUint32(mended[at:], uint32(end))
	return mended
}

// messages calls f for each message up to the first record that isn't whole. data is a part of the file.
func (b *block) messages(f func(seq uint64, at int64, data []byte)) {
	for at := 0; at < len(b.text); {
		n := b.record(b.text[at:])
		if n == 0 {
			return
		}
		text := b.text[at : at+n]
		at += n
		seq := binary.LittleEndian.Uint64(text[4:])
		if seq&(recordErased|recordNone) != 0 {
			continue
		}
		from := recordHead + int(binary.LittleEndian.Uint16(text[20:]))
		if binary.LittleEndian.Uint32(text)&recordHeader != 0 {
			from += 4 + int(binary.LittleEndian.Uint32(text[from:]))
		}
		f(seq, int64(binary.LittleEndian.Uint64(text[12:])), text[min(from, n-recordHash):n-recordHash])
	}
}
