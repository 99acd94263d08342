package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// Summary is what has become of a stream: what a Bridge has done since it began, and what a comparison of both ends has
// found by reading them.
type Summary struct {
	Stream string     `json:"stream"`
	At     bus.Cursor `json:"at"`     // of the source, up to which it is copied and compared
	Copied uint64     `json:"copied"` // by this Bridge; an earlier one may have begun
	Loops  uint64     `json:"loops"`  // messages of the source that are not to be copied, as they came from the destination

	TooLarge uint64 `json:"too_large"` // left out by this Bridge: see BridgeConfig.SkipTooLarge

	Source      End `json:"source"`
	Destination End `json:"destination"`

	Missing    uint64 `json:"missing"`    // at the destination
	Different  uint64 `json:"different"`  // in subject, header, data or original time
	Repeated   uint64 `json:"repeated"`   // at the destination, or out of order
	Foreign    uint64 `json:"foreign"`    // at the destination, neither from this source nor known to it
	Unreadable uint64 `json:"unreadable"` // at the source: subject or header breaks the grammar
	Discarded  uint64 `json:"discarded"`  // at the source since they were copied; no fault

	Gaps     []Gap    `json:"gaps,omitempty"`     // what the source has discarded before it was copied
	Warnings []string `json:"warnings,omitempty"` // of limits
}

// End is what one end holds of what is compared.
type End struct {
	Messages uint64 `json:"messages"`
	Sum      string `json:"sum"` // 32 hexadecimal digits, over order, subjects, headers, data and original times
}

// Gap is a hole in the source that a Bridge has met.
type Gap struct {
	After  bus.Cursor `json:"after"` // zero at the stream's start
	Before bus.Cursor `json:"before"`
	Missed uint64     `json:"missed"` // the most that are missing; 0 when it isn't known
}

// Err is nil when the destination holds what the source holds, in its order and nothing else, and otherwise says what is wrong.
func (s *Summary) Err() error {
	var wrong []string
	add := func(n uint64, what string) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(s.Missing, "missing at the destination")
	add(s.Different, "different")
	add(s.Repeated, "repeated or out of order")
	add(s.Foreign, "at the destination that aren't copies from this source")
	add(s.Unreadable, "unreadable at the source")
	if len(wrong) == 0 {
		return nil
	}
	if s.TooLarge > 0 {
		wrong = append(wrong, fmt.Sprintf("of which %d were left out as too large for the destination", s.TooLarge))
	}
	if len(s.Warnings) > 0 {
		wrong = append(wrong, "as was warned: "+strings.Join(s.Warnings, "; "))
	}
	return fmt.Errorf("stream %s: %s", s.Stream, strings.Join(wrong, ", "))
}

func problemsOf(summaries []Summary) error {
	var all []error
	for i := range summaries {
		all = append(all, summaries[i].Err())
	}
	return errors.Join(all...)
}

// end reads one end for a comparison.
type end struct {
	*reader // nil when there is nothing
	sum     hash.Hash
	count   uint64
}

func (e *end) add(at uint64, subject string, header bus.Header, data []byte) {
	e.count++
	digest(e.sum, at, subject, header, data)
}

func (e *end) result() End {
	return End{Messages: e.count, Sum: hex.EncodeToString(e.sum.Sum(nil)[:16])}
}

// comparison walks through both ends side by side.
type comparison struct {
	l        *lane
	s        *Summary
	from, to end
	read     uint64 // of the source, with what is left out
	last     uint64 // copy
	known    uint64 // the last of the destination's own messages that has come to the source
	foreign  []uint64
}

// verify compares what both ends hold of what is copied.
func (l *lane) verify(ctx context.Context) (Summary, error) {
	s := Summary{Stream: l.name, Copied: l.copied, TooLarge: l.tooLarge, Gaps: l.gaps, Warnings: l.warnings}
	if l.at > 0 {
		s.At = bus.NewCursor(l.epoch, l.at)
	}
	c := &comparison{l: l, s: &s, from: end{sum: sha256.New()}, to: end{sum: sha256.New()}}
	before, err := l.info(ctx, l.b.from, "source")
	if err != nil {
		return s, err
	}
	there, err := l.info(ctx, l.b.to, "destination")
	if err != nil {
		return s, err
	}
	l.progress = Progress{Stream: l.name, Comparing: true, Total: before.Msgs}
	if before.Msgs > 0 && l.at > 0 {
		if c.from.reader, err = l.reader(ctx, l.b.from, "source", 0, s.At); err != nil {
			return s, err
		}
		defer c.from.close()
	}
	if there.Msgs > 0 {
		if c.to.reader, err = l.reader(ctx, l.b.to, "destination", 0, there.Last); err != nil {
			return s, err
		}
		defer c.to.close()
	}
	if err := c.run(ctx); err != nil {
		return s, err
	}
	l.progress.Total = l.progress.Done
	l.show(true)
	for _, at := range c.foreign {
		if at > c.known {
			s.Foreign++
		}
	}
	after, err := l.info(ctx, l.b.from, "source")
	if err != nil {
		return s, err
	}
	// Only of a source that stands still it is known how many there should have been.
	if before.First == after.First && before.Last == after.Last && before.Msgs == after.Msgs && before.Last == s.At && c.read < after.Msgs {
		s.Unreadable = after.Msgs - c.read
	}
	s.Source, s.Destination = c.from.result(), c.to.result()
	return s, nil
}

// info asks one end for the stream.
func (l *lane) info(ctx context.Context, end bus.Bus, name string) (*bus.StreamInfo, error) {
	streams, err := l.b.streams(ctx, end, name)
	if err != nil {
		return nil, err
	}
	if s := find(streams, l.name); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("the %s has it no more: %w", name, bus.ErrNoStream)
}

func (c *comparison) run(ctx context.Context) error {
	a, err := c.nextSource(ctx)
	if err != nil {
		return err
	}
	b, at, err := c.nextCopy(ctx)
	for err == nil && (a != nil || b != nil) {
		switch {
		case b == nil || a != nil && a.Cursor.Sequence() < at:
			c.s.Missing++
			c.from.add(a.Cursor.Sequence(), a.Subject, stamped(a), a.Data)
			a, err = c.nextSource(ctx)
		case a == nil || at < a.Cursor.Sequence():
			c.s.Discarded++
			b, at, err = c.nextCopy(ctx)
		default:
			c.pair(a, b)
			if a, err = c.nextSource(ctx); err == nil {
				b, at, err = c.nextCopy(ctx)
			}
		}
	}
	return err
}

// pair compares a message with its copy.
func (c *comparison) pair(a, b *bus.Message) {
	at := a.Cursor.Sequence()
	header := stamped(a)
	if a.Subject != b.Subject || !maps.EqualFunc(header, b.Header, slices.Equal) || !bytes.Equal(a.Data, b.Data) {
		c.s.Different++
	}
	c.from.add(at, a.Subject, header, a.Data)
	c.to.add(at, b.Subject, b.Header, b.Data)
}

// nextSource returns the next message that is to be copied, or nil.
func (c *comparison) nextSource(ctx context.Context) (*bus.Message, error) {
	for c.from.reader != nil {
		m, err := c.from.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the source: %w", err)
		}
		c.read++
		c.l.progress.Done = c.read
		c.l.show(false)
		at := cameBy(m, c.l.end.Epoch())
		if at == 0 {
			return m, nil
		}
		c.s.Loops++
		c.known = max(c.known, at)
	}
	return nil, nil
}

// nextCopy returns the next copy at the destination and the sequence of what it is a copy of, or nil.
func (c *comparison) nextCopy(ctx context.Context) (*bus.Message, uint64, error) {
	for c.to.reader != nil {
		m, err := c.to.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read the destination: %w", err)
		}
		at := copyFrom(m, c.l.epoch)
		switch {
		case at == 0:
			c.foreign = append(c.foreign, m.Cursor.Sequence())
		case at <= c.last:
			c.s.Repeated++
			c.to.add(at, m.Subject, m.Header, m.Data)
		default:
			c.last = at
			return m, at, nil
		}
	}
	return nil, 0, nil
}
