package filebus

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/jitney-go/jitney/bus"
)

// options are those of the whole store.
type options struct {
	dir  string
	sync bool // flush each record before it counts
	log  *slog.Logger
}

// path is that of a stream's file.
func (o *options) path(name string) string { return filepath.Join(o.dir, name+".log") }

// file is a file of frames that grows at its end.
type file struct {
	*os.File
	path   string
	size   int64
	broken error // why nothing more can be appended
}

// append writes a frame behind the others. When it fails, the frame isn't there, unless the
// error is ErrUnknownOutcome: then the next Open may find it.
func (f *file) append(frame []byte, sync bool) error {
	if f.broken != nil {
		return fmt.Errorf("%w: an earlier write has failed: %w", bus.ErrUnavailable, f.broken)
	}
	if _, err := f.WriteAt(frame, f.size); err != nil {
		if f.broken = f.Truncate(f.size); f.broken != nil {
			return fmt.Errorf("%w: %w: %w", bus.ErrUnknownOutcome, bus.ErrUnavailable, err)
		}
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	if sync {
		// After an error nobody knows what is on the disk, and a second try would say nothing about it.
		if f.broken = f.Sync(); f.broken != nil {
			return fmt.Errorf("%w: %w: %w", bus.ErrUnknownOutcome, bus.ErrUnavailable, f.broken)
		}
	}
	f.size += int64(len(frame))
	return nil
}

// frame reads the frame that takes n bytes from off on.
func (f *file) frame(off int64, n int) ([]byte, error) {
	frame := make([]byte, n)
	_, err := f.ReadAt(frame, off)
	if err == nil {
		err = unsealed(frame)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s at byte %d: %w", bus.ErrUnavailable, f.path, off, err)
	}
	return frame, nil
}

// each calls do with the body of every frame, its place and its length. torn: behind the last of them the file
// has a tail that is no record.
func (f *file) each(do func(body []byte, off int64, n int) error) (torn bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	s := &scanner{r: bufio.NewReaderSize(f, 1<<16), size: info.Size()}
	for {
		f.size = s.off
		body, err := s.next()
		if err == nil {
			err = do(body, f.size, int(s.off-f.size))
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && f.size > 0:
			return false, nil
		case errors.Is(err, errTorn) && f.size > 0: // a file has had a head from its beginning on
			return true, nil
		default:
			return false, fmt.Errorf("%s at byte %d: %w; restore it, or move it away to go on without it", f.path, f.size, err)
		}
	}
}

// writer writes a file anew, beside the old one until it is whole.
type writer struct {
	file *os.File
	buf  *bufio.Writer // keeps the first error
	size int64
}

func newWriter(path string) (*writer, error) {
	f, err := os.OpenFile(path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &writer{file: f, buf: bufio.NewWriter(f)}, nil
}

// write appends a frame. An error is told by replace.
func (w *writer) write(frame []byte) {
	n, _ := w.buf.Write(frame) // Flush tells it again
	w.size += int64(n)
}

func (w *writer) writeID(known identity) {
	r := record{seq: known.seq, at: known.at, id: known.id}
	w.write(r.idFrame())
}

// replace puts the new file in place of the one at path.
func (w *writer) replace(path string) (*file, error) {
	err := errors.Join(w.buf.Flush(), w.file.Sync())
	if err == nil {
		err = os.Rename(w.file.Name(), path)
	}
	if err != nil {
		return nil, err
	}
	// From here on it is the file, though perhaps not after a power cut: then nothing may be built on it.
	return &file{File: w.file, path: path, size: w.size, broken: syncDir(filepath.Dir(path))}, nil
}

// abandon removes the new file after an error.
func (w *writer) abandon(err error) error {
	return errors.Join(err, w.file.Close(), os.Remove(w.file.Name()))
}

// syncDir makes a new name last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
