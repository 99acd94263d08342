//go:build race

package natsbus

import "time"

// nats-server 2.15 starts a store's sync timer without the lock that the timer takes
// (newFileStoreWithCreatedAndMode, setSyncTimer). On a machine so busy that the timer fires
// before it is assigned, half an interval later, the race detector tells. Nothing that tests
// look at depends on the interval.
func init() { defaultInterval = time.Minute }
