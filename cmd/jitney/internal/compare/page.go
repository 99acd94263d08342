package compare

import (
	"crypto/sha256"
	"html"
	"slices"
	"time"
)

// message is what somebody says.
type message struct {
	ID    string    `json:"id"`
	By    string    `json:"by"`
	Name  string    `json:"name"`
	Emoji string    `json:"emoji"`
	Text  string    `json:"text"`
	Time  time.Time `json:"time"`

	Phase int           `json:"phase"`
	N     int           `json:"n"`  // in its room and phase, from 0; last behind all of them
	At    time.Duration `json:"at"` // when Publish was called, since the process began to count
}

// last is the number of a message that only says that the others have been published.
const last = -1

// row writes a message as a page of the examples does. What is rendered later puts rows together, as pages do
// that use ui.Once.
func row(m message) string {
	return `<article id="m-` + html.EscapeString(m.ID) + `"><span class="emoji" aria-hidden="true">` + html.EscapeString(m.Emoji) +
		`</span><div class="line"><p class="by"><span class="name">` + html.EscapeString(m.Name) +
		`</span> <time datetime="` + m.Time.UTC().Format(time.RFC3339) + `">` + m.Time.UTC().Format("15:04") +
		`</time></p><p class="text">` + html.EscapeString(m.Text) + `</p></div></article>`
}

func renderPage(out []byte, rows []string) []byte {
	out = append(out[:0], `<main><div role="log">`...)
	for _, row := range rows {
		out = append(out, row...)
	}
	return append(out, `</div></main>`...)
}

// compute is what an expensive page does besides: the same work on each bus, which a duration would not
// be on a machine that is busy.
func compute(page []byte, times int) {
	for range times {
		sha256.Sum256(page)
	}
}

// calibrate returns how much a page that costs so much computes.
func calibrate(cost time.Duration) (times int) {
	rows := make([]string, history)
	for i := range rows {
		rows[i] = row(said(0, i, i))
	}
	page := renderPage(nil, rows)
	took := make([]time.Duration, 50)
	const some = 50
	for i := range took {
		began := time.Now()
		compute(page, some)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	once := max(quantile(took, 0.5)/some, 1) // the middle one: sometimes something else runs, too
	return int((cost + once/2) / once)
}
