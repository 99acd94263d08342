package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jitney-go/jitney/bus"
	"github.com/jitney-go/jitney/bus/natsbus"
)

// openCluster is the median time of one goroutine's publish until two of three members have the message. Both sides publish to
// the same stream on the same members, of which the first one has the goroutine.
func openCluster(sync time.Duration) func(e *env) (ours, floor side, err error) {
	return func(e *env) (ours, floor side, err error) {
		const token = "of the bench"
		addrs, err := freeAddrs(4)
		if err != nil {
			return nil, nil, err
		}
		routes, listen := addrs[:3], addrs[3]
		dir := e.dir()
		buses := make([]bus.Bus, len(routes))
		err = together(len(routes), func(g int) (err error) {
			name := fmt.Sprint("n", g+1)
			c := natsbus.Config{
				Dir: filepath.Join(dir, name), Sync: sync,
				Cluster: &natsbus.Cluster{Name: "bench", Member: name, Secret: token, Listen: routes[g], Routes: routes},
			}
			if g == 0 {
				c.Listen, c.Token = listen, token
			}
			buses[g], err = c.Open(e.ctx, bus.WithLogger(slog.New(slog.DiscardHandler))) // they warn of each other's coming and going
			return err
		})
		for _, b := range buses {
			if b != nil {
				e.after(func() error { return closeBus(b) })
			}
		}
		if err == nil {
			err = buses[0].EnsureStreams(e.ctx, bus.StreamConfig{Name: streamName, Subjects: []string{streamPattern}})
		}
		if err != nil {
			return nil, nil, err
		}
		nc, err := nats.Connect("nats://"+listen, nats.Token(token))
		if err != nil {
			return nil, nil, err
		}
		e.after(func() error { nc.Close(); return nil })
		js, err := jetstream.New(nc)
		if err != nil {
			return nil, nil, err
		}
		return e.latency(e.size(500, 5), buses[0], &raw{nc: nc, js: js})
	}
}

// freeAddrs returns addresses of this machine on which nothing listens.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
