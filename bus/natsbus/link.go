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
	waiting map[*context.CancelCauseFunc]string // with the subject of what they ask
}

// context ends also when no answer will come, with the reason. unlink is called when the answer is there.
func (l *link) context(ctx context.Context, subject string) (linked context.Context, unlink func()) {
	linked, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = map[*context.CancelCauseFunc]string{}
	}
	l.waiting[&cancel] = subject
	return linked, func() {
		l.mu.Lock()
		delete(l.waiting, &cancel)
		l.mu.Unlock()
		cancel(nil)
	}
}

// end says that those of whose subject about says so get no answer.
func (l *link) end(reason error, about func(subject string) bool) (found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for cancel, subject := range l.waiting {
		if about(subject) {
			found = true
			(*cancel)(reason)
		}
	}
	return found
}
