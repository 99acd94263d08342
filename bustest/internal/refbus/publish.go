package refbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, subject string, data []byte, opts ...bus.PublishOption) error {
	b.pause()
	o := bus.NewPublishOptions(opts)
	var late func()
	if b.link != nil {
		copied := o
		copied.Receipt = nil
		if b.bug("retryDoubles") {
			copied.MessageID = ""
		}
		data := bytes.Clone(data)
		late = func() { _ = b.publish(context.WithoutCancel(ctx), subject, data, copied) } // nobody waits for it any more
	}
	return b.wrap("publish", subject, b.over(ctx, late, func() error { return b.publish(ctx, subject, data, o) }), data)
}

func (b *Bus) publish(ctx context.Context, subject string, data []byte, o bus.PublishOptions) error {
	if b.bug("racyMap") {
		for range 5000 { // so that two meet
			b.racy[subject]++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	late := b.closing && !b.closed && (b.bug("closeLosesLate") || b.bug("closeRefusesStored"))
	if err := b.refuse(ctx); err != nil && !late && !(b.bug("pubAfterClose") && errors.Is(err, bus.ErrClosed)) {
		return err
	}
	if b.bug("closeSendsOnClosed") {
		b.mu.Unlock()
		_ = pauseUntil(ctx, 20*time.Millisecond) // so that Close comes in between, also on a busy machine
		b.mu.Lock()
		if b.closing {
			b.mu.Unlock()
			<-b.done
			b.mu.Lock()
		}
		if b.closed {
			panic("send on closed channel")
		}
	}
	if err := bus.CheckSubject(subject); err != nil {
		pattern := bus.CheckPattern(subject) == nil
		reserved := strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "_")
		switch {
		case pattern && b.bug("wildcardOK"), reserved && b.bug("reservedOK"), !pattern && !reserved && b.bug("noValidate"):
		case len(subject) == 256 && b.bug("longOK"):
		default:
			return err
		}
	}
	if len(subject) > 200 && b.bug("shortSubjects") {
		return bus.ErrBadSubject
	}
	tooLarge := b.cfg.MaxPayload > 0 && size(data, o.Header, !b.bug("headersUncounted")) > b.cfg.MaxPayload && !b.bug("bigOK")
	if tooLarge && b.bug("sizeFirst") {
		return bus.ErrTooLarge
	}
	if b.o.Propagator != nil && !b.bug("noTrace") && !b.cfg.NoHeaders {
		o.Header = o.Header.Clone()
		if o.Header == nil {
			o.Header = bus.Header{}
		}
		b.o.Propagator.Inject(ctx, o.Header)
	}
	if b.cfg.NoHeaders && o.Header != nil && !b.bug("headersIgnored") {
		return b.lacks("headers")
	}
	if err := checkHeader(o.Header); err != nil && !b.bug("badHeaderOK") {
		return err
	}
	if strings.ContainsAny(o.MessageID, "\r\n\x00") || strings.TrimSpace(o.MessageID) != o.MessageID {
		return fmt.Errorf("%w: the message ID", bus.ErrBadHeader)
	}
	if tooLarge && b.bug("payloadInTooLarge") {
		return fmt.Errorf("%w: %s", bus.ErrTooLarge, data)
	}
	if tooLarge {
		return fmt.Errorf("%w: %d bytes, limit %d", bus.ErrTooLarge, len(data), b.cfg.MaxPayload)
	}
	if b.bug("leakSubjects") {
		b.leaked = append(b.leaked, subject)
	}
	m := b.message(subject, data, o.Header)
	if b.bug("inboxSeen") {
		for _, s := range b.subs {
			if strings.HasPrefix(s.pattern, ">") {
				s.push(&bus.Message{Subject: "_INBOX.reply"})
			}
		}
	}
	if b.bug("closeLosesLate") && b.closing {
		return nil
	}
	if st := b.capturing(subject); st != nil {
		if len(data) == 0 && o.Header == nil && b.bug("heldNilDropped") {
			return nil
		}
		if b.cfg.MaxPayload > 0 && len(data) > b.cfg.MaxPayload-200 && b.bug("heldLimitLower") {
			return bus.ErrTooLarge
		}
		err := b.append(st, m, o)
		if b.bug("cancelStores") || b.bug("unknownBare") {
			b.yield() // so that the context may end
		}
		switch {
		case ctx.Err() == nil || err != nil:
		case b.bug("cancelStores"):
			return ctx.Err()
		case b.bug("unknownBare"):
			return bus.ErrUnknownOutcome
		}
		if b.bug("closeRefusesStored") && b.closing {
			return bus.ErrClosed
		}
		return err
	}
	if (o.MessageID != "" || o.Expect || o.Receipt != nil) && !b.bug("optionsIgnored") {
		return bus.ErrNoStream
	}
	if b.bug("slowNoStream") && len(b.streams) > 0 {
		b.mu.Unlock()
		_ = pauseUntil(ctx, 50*time.Millisecond) // as one that waits for a stream to answer
		b.mu.Lock()
	}
	return b.send(ctx, m)
}

// size is what a limit counts.
func size(data []byte, header bus.Header, counted bool) int {
	n := len(data)
	for k, values := range header {
		for _, v := range values {
			if counted {
				n += len(k) + len(v)
			}
		}
	}
	return n
}

// message makes the message that subscriptions share.
func (b *Bus) message(subject string, data []byte, header bus.Header) *bus.Message {
	m := &bus.Message{Subject: subject, Data: slices.Clip(bytes.Clone(data)), Header: header.Clone()}
	switch b.cfg.Bug {
	case "attemptEverywhere":
		m.Attempt = 1
	case "corrupt":
		m.Data = []byte(strings.ToValidUTF8(string(m.Data), "?"))
	case "wrongSubject":
		m.Subject = strings.ToLower(subject)
	case "aliasPub":
		m.Data = data
	case "roomToAppend":
		m.Data = append(make([]byte, 0, len(data)+64), data...)
	case "noHeaders":
		m.Header = nil
	}
	return m
}

// send hands an uncaptured message to the queues. b.mu is held.
func (b *Bus) send(ctx context.Context, m *bus.Message) error {
	if len(m.Data) == 0 && (b.bug("nilDropped") || m.Header.Value("Status") != "" && b.bug("statusDropped")) {
		return nil
	}
	var matching []*subscription // one of each place
	places := map[*place]bool{}
	for _, s := range b.subs {
		if s.matches(m.Subject) && !s.early && !places[s.place] && !(b.bug("strangers") && s.stranger(ctx)) &&
			!(b.bug("lateElsewhere") && s.stranger(ctx) && time.Since(s.began) < 5*time.Millisecond) {
			matching = append(matching, s)
			places[s.place] = true
		}
	}
	if len(matching) == 0 && b.bug("errNoSubs") {
		return bus.ErrUnavailable
	}
	if len(matching) > 1 && b.bug("onlyFirst") {
		matching = matching[:1]
	}
	if b.bug("leakMessages") {
		b.leaked = append(b.leaked, m)
	}
	if b.cfg.Tiny {
		b.mu.Unlock()
		defer b.mu.Lock()
		select {
		case b.wire <- parcel{m: m, to: matching}:
		case <-b.done:
		}
		return nil
	}
	return b.hand(ctx, m, matching)
}

// hand queues an uncaptured message. b.mu is held.
func (b *Bus) hand(ctx context.Context, m *bus.Message, matching []*subscription) error {
	for _, s := range matching {
		if b.bug("causeLater") && s.number%2 == 0 {
			// Behind the next one that a handler publishes.
			if s.held = append(s.held, m); !b.inHandler(ctx) {
				continue
			}
			for i := range s.held {
				s.push(s.held[len(s.held)-1-i])
			}
			s.held = nil
			continue
		}
		for s.full(m) && b.bug("blockPub") {
			b.mu.Unlock()
			err := pauseUntil(ctx, time.Millisecond)
			b.mu.Lock()
			if err != nil {
				return err
			}
		}
		times := 1
		if len(matching) > 1 && b.bug("dupMatch") {
			times = len(matching)
		}
		for range times {
			s.push(m)
		}
	}
	return nil
}

func checkHeader(h bus.Header) error {
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for k, values := range h {
		if k == "" || strings.Trim(k, token) != "" || strings.HasPrefix(strings.ToLower(k), "nats-") {
			return fmt.Errorf("%w: key %q", bus.ErrBadHeader, k)
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") || strings.TrimSpace(v) != v {
				return fmt.Errorf("%w: the value of %s", bus.ErrBadHeader, k)
			}
		}
	}
	return nil
}
