package natsbus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/jitney-go/jitney/bus"
)

// Of a block of messages, as the server's filestore.go writes it.
const (
	recordHeader  = 22      // length, sequence, time, length of the subject
	recordHasMore = 1 << 31 // of a length: behind the subject there are a length and headers
	recordErased  = 1 << 63 // of a sequence
	recordNone    = 1 << 62 // of a sequence: the record is of a removal
	blockPacked   = "cmp"   // how a compressed block begins

	checkedBytes  = 64 << 20 // of each stream
	checkedHeader = 64 << 10 // of each message

	// unlikelyJump is how far apart two sequences don't stand in one block. The server walks what lies between them, a
	// flipped bit may have made it 2^63, and until it is through, nothing ends: not its start either.
	unlikelyJump = 1 << 24
)

// doubts are messages of each stream whose header doesn't end where it should: their data may be another one than was
// published.
type doubts map[string]map[uint64]bool

// of reports whether a message is to be taken for unreadable.
func (d doubts) of(stream string, seq uint64) bool { return d[stream][seq] }

// checkBlocks looks at the newest blocks of each stream, which the server reads when it starts, for damage that the server
// doesn't see: what would keep it for ever, and what its checksums leave out. The rest it sees by itself.
func checkBlocks(dir string) (doubts, error) {
	found := doubts{}
	streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs"))
	if err != nil {
		return nil, err
	}
	for _, stream := range streams {
		blocks, err := filepath.Glob(filepath.Join(stream, "*.blk"))
		if err != nil {
			return nil, err
		}
		number := func(path string) (n int) {
			_, _ = fmt.Sscanf(filepath.Base(path), "%d.blk", &n) // another name is no block, and comes last
			return n
		}
		slices.SortFunc(blocks, func(a, b string) int { return number(b) - number(a) })
		left := int64(checkedBytes)
		doubtful := map[uint64]bool{}
		for _, block := range blocks {
			size, err := checkBlock(block, doubtful)
			if err != nil {
				return nil, err
			}
			if left -= size; left <= 0 {
				break
			}
		}
		if len(doubtful) > 0 {
			found[filepath.Base(filepath.Dir(stream))] = doubtful
		}
	}
	return found, nil
}

// checkBlock returns the size of the block that it has looked at.
func checkBlock(path string, doubtful map[uint64]bool) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close() // nothing was written
	r := bufio.NewReaderSize(f, 1<<20)
	if start, err := r.Peek(len(blockPacked)); err != nil || string(start) == blockPacked {
		return 0, nil // an empty one, or one that an operator has had compressed
	}
	last := uint64(math.MaxUint64)
	for {
		var h [recordHeader]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return size, ignoreEnd(err)
		}
		length := int64(binary.LittleEndian.Uint32(h[:]) &^ recordHasMore)
		seq := binary.LittleEndian.Uint64(h[4:])
		if seq&recordNone == 0 {
			seq &^= recordErased
			if seq > last && seq-last > unlikelyJump {
				return size, fmt.Errorf("%w: %s is damaged at byte %d: sequence %d follows %d; restore the store from a copy, or remove that stream's directory to go on without it",
					bus.ErrUnavailable, path, size, seq, last)
			}
			last = seq
		}
		if length < recordHeader {
			return size, nil // which the server sees
		}
		if binary.LittleEndian.Uint32(h[:])&recordHasMore != 0 {
			body, err := r.Peek(int(min(length-recordHeader, checkedHeader)))
			if err == nil && !endsRight(body, int(binary.LittleEndian.Uint16(h[20:]))) {
				doubtful[seq] = true
			}
		}
		n, err := r.Discard(int(length - recordHeader))
		if size += recordHeader + int64(n); err != nil {
			return size, ignoreEnd(err)
		}
	}
}

// endsRight reports whether the header behind the subject is as long as is said, which no checksum covers.
func endsRight(body []byte, subject int) bool {
	if len(body) < subject+4 {
		return true // which the server sees
	}
	length, header := int(binary.LittleEndian.Uint32(body[subject:])), body[subject+4:]
	end := bytes.Index(header, headerEnd) + len(headerEnd)
	if end < len(headerEnd) {
		return length > len(header) // there is more of it
	}
	return length == end
}

// ignoreEnd: a block may end anywhere, which the server sees.
func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
