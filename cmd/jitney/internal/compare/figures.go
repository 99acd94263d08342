package compare

import (
	"math"
	"runtime"
	"time"
)

// figures is what a bus comes to.
type figures struct {
	Bus          string   `json:"bus"`
	Elsewhere    bool     `json:"elsewhere"`
	Conversation *phase   `json:"conversation,omitempty"`
	Burst        *phase   `json:"burst,omitempty"`
	Flood        *phase   `json:"flood,omitempty"`
	Memory       *memory  `json:"memory,omitempty"`
	Kill         *kill    `json:"kill,omitempty"`
	Problems     []string `json:"problems,omitempty"`
	Error        string   `json:"error,omitempty"`
}

// phase is what one phase of the load comes to.
type phase struct {
	Messages   int           `json:"messages"`
	Refused    int           `json:"refused"`
	Deliveries int           `json:"deliveries"`
	Missing    int           `json:"missing"`
	Repeated   int           `json:"repeated"`
	Renders    int           `json:"renders"`
	Saved      float64       `json:"renders_saved"`
	Took       time.Duration `json:"took_ns"`
	PerSecond  float64       `json:"deliveries_per_second"`
	CPU        time.Duration `json:"cpu_ns"`
	PerMessage time.Duration `json:"cpu_per_message_ns"`
	Handled    distribution  `json:"publish_to_handler"`
	Rendered   distribution  `json:"publish_to_rendered"`

	failure error // of the first publish that was refused
}

// use adds what follows from the counts and from the CPU time that the phase took.
func (p *phase) use(cpu time.Duration) {
	p.CPU = cpu
	if p.Messages > 0 {
		p.PerMessage = cpu / time.Duration(p.Messages)
	}
	if p.Deliveries > 0 {
		p.Saved = 1 - float64(p.Renders)/float64(p.Deliveries)
	}
	if p.Took > 0 {
		p.PerSecond = float64(p.Deliveries) / p.Took.Seconds()
	}
}

// distribution is how long something took.
type distribution struct {
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	Max  time.Duration `json:"max_ns"`
	Bins []bin         `json:"bins"`
}

// bin is how many are above the bound before and at most To.
type bin struct {
	To    time.Duration `json:"to_ns"`
	Count int           `json:"count"`
}

const binsPerDecade = 20

// bound is the upper bound of a bin, bin 0's being 1 ns.
func bound(i int) time.Duration {
	return time.Duration(math.Round(math.Pow(10, float64(i)/binsPerDecade)))
}

// binOf is the bin of a duration.
func binOf(d time.Duration) int {
	if d <= 1 {
		return 0
	}
	i := int(math.Ceil(math.Log10(float64(d)) * binsPerDecade))
	for i > 0 && bound(i-1) >= d {
		i--
	}
	for bound(i) < d {
		i++
	}
	return i
}

// distribute takes sorted durations.
func distribute(sorted []time.Duration) distribution {
	d := distribution{Bins: []bin{}}
	if len(sorted) == 0 {
		return d
	}
	d.P50, d.P99, d.Max = quantile(sorted, 0.5), quantile(sorted, 0.99), sorted[len(sorted)-1]
	for _, x := range sorted {
		to := bound(binOf(x))
		if n := len(d.Bins); n == 0 || d.Bins[n-1].To != to {
			d.Bins = append(d.Bins, bin{To: to})
		}
		d.Bins[len(d.Bins)-1].Count++
	}
	return d
}

// quantile is the least of the sorted durations that the part q of them doesn't exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// memory is of the process that has the bus and the pages.
type memory struct {
	Live int64 `json:"live_bytes"`
	Peak int64 `json:"peak_bytes,omitempty"` // 0: not known
}

// readMemory is what this process has now and has had.
func readMemory() *memory {
	runtime.GC()
	runtime.GC() // what had a finalizer
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return &memory{Live: int64(m.HeapAlloc + m.StackInuse), Peak: peak()}
}

// kill is what became of messages when their publisher was killed.
type kill struct {
	Acknowledged int `json:"acknowledged"`
	Lost         int `json:"lost"`
}
