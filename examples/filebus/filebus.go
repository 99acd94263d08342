package filebus

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/driver"
)

// maxPayload bounds what a message takes of memory on its way.
const maxPayload = 8 << 20

func init() { bus.Register("file", open) }

// open is the bus.Opener of file:DIR and file:DIR?sync=always.
func open(ctx context.Context, u *url.URL, o bus.OpenOptions) (bus.Bus, error) {
	dir := u.Opaque // of file:./data
	if dir == "" {
		dir = u.Path // of file:/var/data
	}
	if dir == "" || u.Host != "" {
		return nil, errors.New("want a directory: file:./data or file:/var/data")
	}
	params, err := driver.Params(u, "sync")
	if err != nil {
		return nil, err
	}
	if sync, given := params["sync"]; given && sync != "always" {
		return nil, fmt.Errorf("parameter %q is %q: want always, or leave it out", "sync", sync)
	}
	b := &backend{options: options{dir: dir, sync: params["sync"] == "always", log: o.Logger}, streams: map[string]*stream{}}
	if err := b.load(); err != nil {
		return nil, err
	}
	return driver.New(ctx, b, driver.Config{OpenOptions: o, Sole: true}) // which closes b if it fails
}

// backend is a directory of streams.
type backend struct {
	options
	local
	lock *lock

	mu      sync.Mutex // before any stream's
	streams map[string]*stream
	loaded  bool // all that is there has been read
	closed  bool
}

// load takes the directory and reads what is there.
func (b *backend) load() (err error) {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	lock, before, err := lockDir(b.dir)
	if err != nil {
		return err
	}
	b.lock = lock
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch path := filepath.Join(b.dir, e.Name()); filepath.Ext(path) {
		case ".tmp": // of a file that was being written anew
			if err := os.Remove(path); err != nil {
				return err
			}
		case ".log":
			name := strings.TrimSuffix(e.Name(), ".log")
			s, err := loadStream(&b.options, name, before)
			if err != nil {
				return fmt.Errorf("stream %s: %w", name, err)
			}
			b.streams[name] = s
		}
	}
	b.loaded = true
	return b.lock.mark(b.sync)
}

func (b *backend) Limits() driver.Limits {
	return driver.Limits{MaxPayload: maxPayload, StoredSize: storedSize}
}

// storedSize is what a message counts of MaxBytes.
func storedSize(subject string, header bus.Header, data []byte) int64 {
	return int64(len(subject) + driver.HeaderSize(header) + len(data))
}

func (b *backend) Streams(context.Context) ([]driver.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []driver.Stream
	for _, s := range b.streams {
		list = append(list, s.describe())
	}
	return list, nil
}

func (b *backend) Ensure(_ context.Context, cfg bus.StreamConfig) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return bus.ErrClosed
	}
	if s := b.streams[cfg.Name]; s != nil {
		return s.update(cfg)
	}
	s, err := createStream(&b.options, cfg)
	if err != nil {
		return err
	}
	b.streams[cfg.Name] = s
	return nil
}

// Remove makes filebus a driver.Remover.
func (b *backend) Remove(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.streams[name]
	if s == nil {
		return driver.ErrNotCaptured
	}
	if err := s.remove(); err != nil {
		return err
	}
	delete(b.streams, name)
	return nil
}

func (b *backend) State(_ context.Context, name string) (driver.State, error) {
	b.mu.Lock()
	s := b.streams[name]
	b.mu.Unlock()
	if s == nil {
		return driver.State{}, driver.ErrNotCaptured
	}
	return s.state(), nil
}

// stream returns the stream if it is in the life that is meant.
func (b *backend) stream(meant driver.Stream) (*stream, error) {
	b.mu.Lock()
	s := b.streams[meant.Config.Name]
	b.mu.Unlock()
	switch {
	case s == nil:
		return nil, driver.ErrNotCaptured
	case s.describe().Epoch != meant.Epoch:
		return nil, driver.ErrEpoch
	}
	return s, nil
}

func (b *backend) Append(_ context.Context, s driver.Stream, p *driver.Publication) (driver.Ack, error) {
	st, err := b.stream(s)
	if err != nil {
		return driver.Ack{}, driver.ErrNotCaptured // in this life
	}
	return st.append(p)
}

func (b *backend) Tail(_ context.Context, s driver.Stream, after uint64, sink driver.Sink) (stop func(), err error) {
	st, err := b.stream(s)
	if err != nil {
		return nil, err
	}
	return st.tail(after, sink)
}

func (b *backend) Read(_ context.Context, s driver.Stream, q driver.Query) (driver.Batch, error) {
	st, err := b.stream(s)
	if err != nil {
		return driver.Batch{}, err
	}
	return st.read(q)
}

func (b *backend) Seek(_ context.Context, s driver.Stream, q driver.Query) (after uint64, err error) {
	st, err := b.stream(s)
	if err != nil {
		return 0, err
	}
	return st.seek(q), nil
}

func (b *backend) LastPerSubject(_ context.Context, s driver.Stream, q driver.Query) ([]*bus.Message, error) {
	st, err := b.stream(s)
	if err != nil {
		return nil, err
	}
	return st.lastPerSubject(q)
}

// Interrupt has nothing to end: no call waits for anything but the disk.
func (b *backend) Interrupt() {}

// Close flushes what is stored and gives the directory to others.
func (b *backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	var errs []error
	for _, s := range b.streams {
		errs = append(errs, s.close())
	}
	if errors.Join(errs...) == nil && b.loaded {
		errs = append(errs, b.lock.clear())
	}
	return errors.Join(append(errs, b.lock.release())...)
}
