package main

import (
	"context"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jitney-go/jitney/bus/membus"
)

// used is how much CPU time this process has taken.
func used() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// idle is the milliseconds of CPU time that each second takes while rooms run in which nothing happens.
func idle(ctx context.Context, length time.Duration) (float64, error) {
	wait := func(d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(length / 2); err != nil { // what the start has left to do
		return 0, err
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := wait(length); err != nil {
		return 0, err
	}
	took := time.Since(start)
	after, err := used()
	return float64((after - before).Microseconds()) / 1e3 / took.Seconds(), err
}

type bystander struct{ synced int }

func (b *bystander) Sync() { b.synced++ }

// openIdle compares rooms in which nothing happens with as many goroutines that look at each tick whether their room is dirty.
func openIdle(e *env) (ours, floor side, err error) {
	names := make([]string, e.size(10_000, 100))
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	length := e.last(2 * time.Second)
	const tick = 100 * time.Millisecond
	rooms := membus.NewRooms[int, string](tick, names...)
	for _, name := range names {
		room, _ := rooms.Get(name)
		room.Join(e.ctx, name, &bystander{})
	}
	ours = func(ctx context.Context) (float64, error) {
		rooms.Start()
		defer rooms.Stop()
		return idle(ctx, length)
	}
	floor = func(ctx context.Context) (float64, error) {
		var running sync.WaitGroup
		stop := make(chan struct{})
		for range names {
			running.Go(func() {
				var mu sync.Mutex
				dirty, member := false, &bystander{}
				ticker := time.NewTicker(tick)
				defer ticker.Stop()
				for {
					select {
					case <-ticker.C:
						mu.Lock()
						was := dirty
						dirty = false
						mu.Unlock()
						if was {
							member.Sync()
						}
					case <-stop:
						return
					}
				}
			})
		}
		defer running.Wait()
		defer close(stop)
		return idle(ctx, length)
	}
	return ours, floor, nil
}
