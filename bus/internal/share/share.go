// Package share lets callers share the answer to a question.
package share

import (
	"context"
	"sync"
)

// Call lets callers share the answer to a question, but only of one that was asked
// after they came: an answer that was already on its way may not know what they know.
type Call[T any] struct {
	Ask func() (T, error) // runs once at a time; set before the first Get

	mu      sync.Mutex
	running bool
	next    *answer[T] // of the call after the running one
}

type answer[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// Get returns the answer of the next call of Ask that begins, or ctx's cause.
func (s *Call[T]) Get(ctx context.Context) (T, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &answer[T]{done: make(chan struct{})}
	}
	a := s.next
	if !s.running {
		s.running = true
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.value, a.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

func (s *Call[T]) run() {
	for {
		s.mu.Lock()
		a := s.next
		s.next = nil
		if a == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		a.value, a.err = s.Ask()
		close(a.done)
	}
}
