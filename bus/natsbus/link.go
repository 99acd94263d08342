package natsbus

import (
	"context"
	"fmt"
	"sync"

	"github.com/jitney-go/jitney/bus"
)

// errCut: an answer isn't waited for, as it would come on a connection that is no more.
var errCut = fmt.Errorf("%w: the connection was lost before an answer came", bus.ErrUnavailable)

// link is a connection, as those see it who wait for an answer.
type link struct {
	mu      sync.Mutex
	waiting map[*context.CancelCauseFunc]struct{}
}

// context ends also when the connection is lost, with errCut. unlink is called when the answer is there.
func (l *link) context(ctx context.Context) (linked context.Context, unlink func()) {
	linked, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = map[*context.CancelCauseFunc]struct{}{}
	}
	l.waiting[&cancel] = struct{}{}
	return linked, func() {
		l.mu.Lock()
		delete(l.waiting, &cancel)
		l.mu.Unlock()
		cancel(nil)
	}
}

// cut is told that the connection was lost.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for cancel := range l.waiting {
		(*cancel)(errCut)
	}
}
