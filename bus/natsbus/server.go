package natsbus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/jitney-go/jitney/bus"
)

const (
	lockFile     = "jitney.lock"
	startTimeout = 30 * time.Second
	startLook    = 50 * time.Millisecond // the server itself looks twice within it
	noLimit      = 1 << 60
)

// embedded is a NATS server in this process.
type embedded struct {
	cfg   Config
	dir   string
	level syncLevel
	log   *slog.Logger

	lock       *os.File
	disk       *disk
	commits    *commits // nil: no publish waits for the disk
	booted     bool     // noteBoot was called
	lives      *lives
	copies     *copies
	review     *review     // of a member of a cluster
	clusterLog *clusterLog // the same
	server     atomic.Pointer[instance]
	opts       *server.Options // of the server
	change     sync.Mutex      // of the server or its options, while it runs

	config    *server.JetStreamConfig
	interrupt func(reason error) // ends what waits for the store
	renew     func()             // has all that stood on the store made anew
	tell      func()             // of what is damaged
	opened    time.Time
	stopping  chan struct{}
	healing   sync.WaitGroup

	background sync.WaitGroup // what else ends with stopping

	left *instance // that had a member's store last, and has ended; nil: the one that runs has it. Under change

	mu          sync.Mutex
	tried       time.Time       // when a member's store was tried the last time, by heal
	paused      time.Duration   // after it, until the next time
	restarts    bool            // a member's server can be started anew in this process: it has a door
	fatal       string          // what the server would have ended the process for
	critical    string          // why the store doesn't work, until it does again
	obstacle    string          // why it can't be opened again although there is room; empty: it can, or there is none
	brokenAt    time.Time       // since when
	brokenAgain bool            // while it is being healed
	healedAt    time.Time       // when a member's store was opened again the last time
	failed      bool            // it couldn't be written to, or read; otherwise it is only damaged
	refused     bool            // the disk has refused what was written, in a sync, and hasn't got it since
	noted       bool            // that is recorded
	unnoted     string          // why it couldn't be
	damages     []damage        // that have been found since the start
	untold      []damage        // of these, what the hook of the bus isn't told of yet
	lost        map[string]bool // streams that are there and can't be read

	suspected map[string]time.Time // when files of a stream were looked at
	doubtful  []string             // files in which damage was seen, until they are mended

	lastError string // that the server has logged, about whatever
}

// InProcessConn implements nats.InProcessConnProvider.
func (e *embedded) InProcessConn() (net.Conn, error) { return e.server.Load().InProcessConn() }

func (e *embedded) start(ctx context.Context, opts *server.Options) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, e.stop())
		}
	}()
	if opts.JetStream {
		if err := e.lockDir(); err != nil {
			return err
		}
		if err := e.claim(); err != nil {
			return err
		}
		if err := e.removeRooms(); err != nil {
			return err
		}
		if e.disk, err = openDisk(e.dir, e.syncFailed); err != nil {
			return err
		}
		if err := e.inspect(ctx); err != nil {
			return err
		}
		if e.cfg.Cluster != nil {
			if err := e.beginBoot(); err != nil {
				return err
			}
		}
	}
	e.opts = opts
	if err := e.run(ctx, opts.JetStream, nil); err != nil {
		return err
	}
	if e.clusterLog != nil {
		e.background.Go(e.watchLog)
	}
	switch {
	case e.cfg.Cluster != nil && e.cfg.Cluster.Peers != nil:
		e.background.Go(e.follow)
	case e.cfg.Cluster == nil && e.cfg.Leaf == nil:
		return e.beginLives()
	}
	return nil
}

// lockDir takes the directory for this process. The server doesn't: two of them on one
// directory both start and lose each other's messages.
func (e *embedded) lockDir() error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return storeError(e.dir, err)
	}
	// The server's "storage directory is not writable" comes late; this names the same fault at once.
	f, err := os.OpenFile(filepath.Join(e.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return storeError(e.dir, err)
	}
	locked, err := tryLock(f)
	if err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	if !locked {
		holder := make([]byte, 64)
		n, _ := f.ReadAt(holder, 0) // it is only told
		who, _, _ := strings.Cut(string(holder[:n]), "\n")
		return errors.Join(fmt.Errorf("%w: %s (%s); stop that process or use another directory", bus.ErrLocked, e.dir, who), f.Close())
	}
	e.lock = f
	if err := f.Truncate(0); err != nil {
		return storeError(e.dir, err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "process %d\n", os.Getpid()), 0); err != nil {
		return storeError(e.dir, err)
	}
	return nil
}

// storeError says what to do about a directory that can't be used.
func storeError(dir string, err error) error {
	err = withoutPath(err)
	if isDiskFault(err) {
		return fmt.Errorf("%w: the data directory %s can't be used: %w; make room or mend the disk", bus.ErrUnavailable, dir, err)
	}
	return fmt.Errorf("the data directory %s can't be used: %w; give one that this user can write to", dir, err)
}

// isDiskFault reports whether a disk is full or out of order, which another user or directory there would meet, too.
func isDiskFault(err error) bool {
	return slices.ContainsFunc(diskFaults, func(fault error) bool { return errors.Is(err, fault) })
}

// withoutPath is what the system says, without the path of a file that a reader knows nothing of.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// beginLives looks whether the streams of a store that stands alone are what they were.
func (e *embedded) beginLives() error {
	e.config = e.server.Load().JetStreamConfig()
	streams, err := e.server.Load().streams()
	if err != nil {
		return err
	}
	lost, err := e.lives.begin(streams)
	if err != nil {
		return storeError(e.dir, err)
	}
	e.tellLost(lost)
	return nil
}

// streams lists what the store holds.
func (s *instance) streams() ([]server.StreamDetail, error) {
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true})
	if err != nil {
		return nil, err
	}
	var streams []server.StreamDetail
	for _, account := range info.AccountDetails {
		streams = append(streams, account.Streams...)
	}
	return streams, nil
}

func (e *embedded) tellLost(lost []string) {
	if len(lost) > 0 {
		e.log.Warn("natsbus: streams have lost their end, or may have; their cursors of before are gaps now", "dir", e.dir, "streams", strings.Join(lost, ", "))
	}
}

// failure is what has gone wrong with the server so far.
func (e *embedded) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.fatal != "":
		return fmt.Errorf("%w: %s", bus.ErrUnavailable, e.fatal)
	case e.critical != "" && e.obstacle != "":
		return fmt.Errorf("%w: %s; it can't be opened again yet: %s", bus.ErrUnavailable, e.critical, e.obstacle)
	case e.critical != "":
		return fmt.Errorf("%w: %s", bus.ErrUnavailable, e.critical)
	}
	return nil
}

func (e *embedded) stop() error {
	// The fields stay: a question whose caller has gone may still be under way.
	e.mu.Lock() // nobody is between looking at it and e.healing.Go
	close(e.stopping)
	e.mu.Unlock()
	e.healing.Wait()
	e.background.Wait()
	if s := e.server.Load(); s != nil {
		s.end()
	}
	if e.commits != nil {
		e.commits.forget()
	}
	var err error
	if e.disk != nil {
		// The server leaves its files to the system.
		err = e.disk.close()
	}
	e.noteRefused()
	if e.cfg.Cluster != nil && e.lock != nil {
		err = errors.Join(err, e.removeDoors())
	}
	if e.booted && err == nil && e.failure() == nil { // as below
		err = e.endBoot()
	}
	if e.lives != nil {
		// The stop is a clean one only if the disk has it all. Otherwise the next Open looks at all files.
		err = errors.Join(err, e.lives.close(err == nil && e.failure() == nil))
	}
	if e.lock != nil {
		err = errors.Join(err, unlock(e.lock), e.lock.Close())
	}
	return err
}

// redacted takes the secrets out of URLs in what the server says. Elsewhere it doesn't say any, and a word that is
// missing would give one away.
func (e *embedded) redacted(text string) string {
	secrets := []string{e.cfg.Token}
	if e.cfg.Cluster != nil {
		secrets = append(secrets, e.cfg.Cluster.Secret)
	}
	if e.cfg.Leaf != nil {
		secrets = append(secrets, e.cfg.Leaf.Login.Token, e.cfg.Leaf.Login.Password)
	}
	for _, secret := range secrets {
		if secret != "" {
			for _, written := range []string{secret, url.User(secret).String()} {
				text = strings.NewReplacer("//"+written+"@", "//xxxxx@", ":"+written+"@", ":xxxxx@").Replace(text)
			}
		}
	}
	return text
}
