package driver

import "sync/atomic"

// signal is a channel that is closed once, and made when somebody asks for it: few are watched before they are fired.
type signal struct{ p atomic.Pointer[chan struct{}] }

var firedChannel = func() *chan struct{} {
	c := make(chan struct{})
	close(c)
	return &c
}()

// fire closes the channel. It is called once.
func (x *signal) fire() {
	if p := x.p.Swap(firedChannel); p != nil {
		close(*p)
	}
}

// fired reports whether fire was called.
func (x *signal) fired() bool { return x.p.Load() == firedChannel }

// channel returns the channel.
func (x *signal) channel() <-chan struct{} {
	if p := x.p.Load(); p != nil {
		return *p
	}
	c := make(chan struct{})
	if x.p.CompareAndSwap(nil, &c) {
		return c
	}
	return *x.p.Load()
}
