package compare

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

const (
	history     = 50 // messages of a room that a page shows
	burstFactor = 10 // how much faster than in the conversation the robots speak in the burst
	flooders    = 16 // robots of the flood
	floodMost   = 20_000
	deliveries  = 10_000_000 // at the most, of a phase: each is noted
	killed      = 4          // robots of the kill
	seed        = 1          // all buses get what it leads to
)

// load is the chat that each bus is given.
type load struct {
	Rooms         int           `json:"rooms"`
	Tabs          int           `json:"tabs"`
	Rate          float64       `json:"rate"` // messages per second, of all rooms
	BurstRate     float64       `json:"burst_rate"`
	Conversation  time.Duration `json:"conversation_ns"`
	Burst         time.Duration `json:"burst_ns"`
	Flood         time.Duration `json:"flood_ns"`
	FloodMessages int           `json:"flood_messages"`
	Render        time.Duration `json:"render_ns"`
	Effort        int           `json:"effort"` // what an expensive page computes
	Seed          uint64        `json:"seed"`
}

// check returns what is wrong with the flags that a load is made of.
func (l *load) check() error {
	const most = 10_000
	switch {
	case l.Tabs < 1 || l.Tabs > most:
		return fmt.Errorf("-tabs %d: want 1 to %d", l.Tabs, most)
	case l.Rooms < 1 || l.Rooms > l.Tabs:
		return fmt.Errorf("-rooms %d: want 1 to %d, as there are -tabs, so that somebody is in each", l.Rooms, l.Tabs)
	case !(l.Rate >= 1 && l.Rate <= most): // also of NaN
		return fmt.Errorf("-rate %v: want 1 to %d messages per second", l.Rate, most)
	case l.Conversation < 100*time.Millisecond || l.Conversation > 10*time.Minute:
		return fmt.Errorf("-d %s: want 100ms to 10m", l.Conversation)
	case l.Render < 0 || l.Render > time.Second:
		return fmt.Errorf("-render %s: want 0 to 1s", l.Render)
	}
	if all := burstFactor * l.Rate * l.Conversation.Seconds() / 3 * float64(l.perRoom()); all > deliveries {
		return fmt.Errorf("the burst would be %s deliveries, and %s is the most: want fewer -tabs, a lower -rate, a shorter -d or more -rooms",
			digits(all), count(deliveries))
	}
	return nil
}

// perRoom is how many pages look at a room, at the most.
func (l *load) perRoom() int { return (l.Tabs + l.Rooms - 1) / l.Rooms }

// fill computes what the flags don't say.
func (l *load) fill() {
	l.BurstRate = burstFactor * l.Rate
	l.Burst, l.Flood = l.Conversation/3, l.Conversation/3
	l.FloodMessages = min(floodMost, deliveries/l.perRoom())
	l.Seed = seed
}

// killAfter is how long the robots of the kill have been heard when it comes.
func (l *load) killAfter() time.Duration { return l.Conversation / 10 }

// utterance is that somebody says something.
type utterance struct {
	at   time.Duration // from the beginning of its phase
	room int
}

// schedule is who speaks when: at random times, as people do, who don't wait for each other.
func (l *load) schedule(rate float64, length time.Duration) []utterance {
	random := rand.New(rand.NewPCG(l.Seed, uint64(length)))
	list := make([]utterance, max(1, int(math.Round(rate*length.Seconds()))))
	total := 0.0
	gaps := make([]float64, len(list)+1)
	for i := range gaps {
		gaps[i] = random.ExpFloat64()
		total += gaps[i]
	}
	at := 0.0
	for i := range list {
		at += gaps[i] / total
		list[i] = utterance{time.Duration(at * float64(length)), random.IntN(l.Rooms)}
	}
	return list
}
