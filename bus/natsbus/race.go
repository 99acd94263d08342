//go:build race

package natsbus

import "time"

// nats-server 2.15 starts a store's sync timer without the lock that the timer takes
// (newFileStoreWithCreatedAndMode, setSyncTimer). On a machine so busy that the timer fires
// before it is assigned, half an interval later, the race detector tells, in the tests of
// whoever uses this package. So the default is a minute where the detector is on.
func init() { defaultInterval = time.Minute }
