package ui

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// StreamConfig describes a stream of the bus.
type StreamConfig = bus.StreamConfig

// Plugin adds pages and assets to an App. It runs when the server starts, before the bus is opened.
type Plugin func(v *App) error

// Options configures an App. The zero value works.
type Options struct {
	// Bus is used and left open. When it is nil, BusURL is opened, and closed at the end. They exclude each other.
	Bus bus.Bus

	// BusURL is what [bus.Open] understands. The default is an embedded NATS server that
	// stores in ./data/nats; schemes other than "nats" need the import of their package.
	BusURL string

	// Streams are created, or brought up to date, before the server listens. A stream that
	// doesn't say for how long it remembers message IDs remembers them for two minutes,
	// so that an action which is sent again publishes once.
	Streams []StreamConfig

	// ServerAddress is where the server listens: "localhost:7331" if empty. ":7331" listens on
	// all interfaces, which lets the network in.
	ServerAddress string

	// Hosts are the names under which the server is reached, without ports. A server that
	// listens on loopback always answers to loopback names; one that listens elsewhere
	// answers to any name while Hosts is empty.
	Hosts []string

	// DocumentTitle is the title of pages that set none.
	DocumentTitle string

	// Logger is slog.Default() if nil.
	Logger *slog.Logger

	// Metrics is told what the pages do, if it isn't nil. One that is a [bus.Metrics] as well is told by the bus of BusURL
	// what that does; a program that opens its own Bus says so there. The modules metrics/prometheus
	// and metrics/otel have one each, for both.
	Metrics Metrics

	// Plugins run in order when the server starts.
	Plugins []Plugin

	// TabTTL is how long a tab without a connection is kept: a minute if zero.
	TabTTL time.Duration

	// MaxTabs bounds the tabs in all (10,000 if zero), and MaxTabsPerSession those of one
	// browser (100 if zero), and its streams. Tabs whose documents never connected make room first.
	MaxTabs           int
	MaxTabsPerSession int

	// MaxBody bounds what a browser may post at once, in bytes: 1 MiB if zero. What its
	// user enters into all signals of a page is bounded by 64 KiB.
	MaxBody int64

	// ActionsPerSecond bounds the actions of one tab: 20 if zero, with bursts of twice as many.
	ActionsPerSecond float64
}

const (
	defaultAddress = "localhost:7331"
	defaultBusURL  = "nats:./data/nats"

	// duplicates is how long our streams remember message IDs: longer than a browser
	// sends an action again.
	duplicates = 2 * time.Minute
)

// limits are the durations and sizes that tests shorten.
type limits struct {
	patience    time.Duration // for a tab's thread, of a request
	unattached  time.Duration // life of a tab whose document never connects
	heartbeat   time.Duration
	unseen      time.Duration // a stream that nobody says to have read is closed
	write       time.Duration // for one write to a stream, and for a body to arrive
	response    time.Duration // for a response that isn't a stream
	slot        time.Duration // a view that renders for longer gives its place to others
	form        time.Duration // for the action of a form
	publish     time.Duration
	subscribe   time.Duration
	pace        time.Duration // between two frames of a tab
	shutdown    time.Duration
	later       time.Duration // about when browsers come back after a shutdown
	signals     int           // bytes of a tab's signals that its browser may fill
	sendBuffer  int           // of the kernel, for streams
	diffEffort  int           // edits between two views that are searched for
	notes       int           // errors that wait for a tab's stream
	onceEntries int           // outcomes of actions that are remembered,
	onceMemory  time.Duration // and for how long
}

var defaultLimits = limits{
	patience:    2 * time.Second,
	unattached:  15 * time.Second,
	heartbeat:   15 * time.Second,
	unseen:      45 * time.Second,
	write:       10 * time.Second,
	response:    time.Minute,
	slot:        250 * time.Millisecond,
	form:        30 * time.Second,
	publish:     10 * time.Second,
	subscribe:   30 * time.Second,
	pace:        10 * time.Millisecond,
	shutdown:    5 * time.Second,
	later:       time.Second,
	signals:     64 << 10,
	sendBuffer:  16 << 10,
	diffEffort:  256,
	notes:       4,
	onceEntries: 100_000,
	onceMemory:  duplicates,
}

// complete fills in the defaults.
func (o Options) complete() Options {
	if o.BusURL == "" && o.Bus == nil {
		o.BusURL = defaultBusURL
	}
	if o.ServerAddress == "" {
		o.ServerAddress = defaultAddress
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = unmeasured{}
	}
	if o.TabTTL == 0 {
		o.TabTTL = time.Minute
	}
	if o.MaxTabs == 0 {
		o.MaxTabs = 10_000
	}
	if o.MaxTabsPerSession == 0 {
		o.MaxTabsPerSession = 100
	}
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	if o.ActionsPerSecond == 0 {
		o.ActionsPerSecond = 20
	}
	streams := make([]StreamConfig, len(o.Streams))
	for i, s := range o.Streams {
		if s.Duplicates == 0 {
			s.Duplicates = duplicates
			if s.MaxAge > 0 {
				s.Duplicates = min(s.Duplicates, s.MaxAge)
			}
		}
		streams[i] = s
	}
	o.Streams = streams
	return o
}

// check says what can't work, and what to write instead.
func (o Options) check() error {
	if o.Bus != nil && o.BusURL != "" {
		return errors.New("ui: Options.Bus and Options.BusURL are both set: leave one of them out")
	}
	if _, _, err := net.SplitHostPort(o.ServerAddress); err != nil {
		return fmt.Errorf("ui: Options.ServerAddress %q: want host:port, such as %q: %w", o.ServerAddress, defaultAddress, err)
	}
	for _, host := range o.Hosts {
		if strings.ContainsAny(host, ":/") && net.ParseIP(host) == nil {
			return fmt.Errorf("ui: Options.Hosts: %q: want a name without scheme and port, such as %q", host, "chat.example.com")
		}
	}
	for name, value := range map[string]float64{
		"TabTTL": float64(o.TabTTL), "MaxTabs": float64(o.MaxTabs), "MaxTabsPerSession": float64(o.MaxTabsPerSession),
		"MaxBody": float64(o.MaxBody), "ActionsPerSecond": o.ActionsPerSecond,
	} {
		if value < 0 {
			return fmt.Errorf("ui: Options.%s is negative: leave it zero for the default", name)
		}
	}
	return nil
}
