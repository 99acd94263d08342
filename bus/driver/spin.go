package driver

import "sync"

// spins is how often lockSoon looks.
const spins = 500

// lockSoon locks a mutex that others hold for less time than it takes to park a goroutine and to wake it. A mutex itself doesn't spin while other
// goroutines are ready to run, and then a crowd goes through it one by one.
func lockSoon(mu *sync.Mutex) {
	for range spins {
		if mu.TryLock() {
			return
		}
	}
	mu.Lock()
}
