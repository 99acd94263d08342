package client

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/r3labs/sse/v2"
)

// Follow opens the event stream at address and calls take with each event, until ctx or the stream
// ends. It returns when the stream is open; ended is closed after the last call. How a stream
// ends is for the events to say.
func Follow(ctx context.Context, c *http.Client, address string, take func(e Event)) (ended <-chan struct{}, err error) {
	reader := sse.NewClient(address, sse.ClientMaxBufferSize(8<<20))
	reader.Connection = c
	reader.ReconnectStrategy = never{}
	connected := make(chan error, 1)
	reader.ResponseValidator = func(_ *sse.Client, res *http.Response) error {
		var err error
		if res.StatusCode != http.StatusOK {
			err = fmt.Errorf("the stream was refused: status %d", res.StatusCode)
		}
		connected <- err
		return err
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		err := reader.SubscribeRawWithContext(ctx, func(e *sse.Event) { take(ParseEvent(e.Data)) })
		select {
		case connected <- err:
		default: // it was connected
		}
	}()
	return over, <-connected
}

// never is a reconnect strategy.
type never struct{}

func (never) NextBackOff() time.Duration { return -1 }
func (never) Reset()                     {}
