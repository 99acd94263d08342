package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// Within a group no order is promised, so nothing here asks for one.
var groupChecks = []Check{
	{
		Name: "GroupShares", Run: groupShares, Needs: []Ability{Groups},
		Rule:   "each message goes to one subscription of a group, and to every one outside of it, whether captured or not",
		Origin: "watermill-nats without a queue prefix gives every message to every process",
	},
	{
		Name: "GroupsApart", Run: groupsApart, Needs: []Ability{Groups},
		Rule:   "a group of another name or pattern is another group and gets every message, too",
		Origin: "the NATS server takes queue groups of one name for one, whatever their pattern",
	},
	{
		Name: "GroupFreeMember", Run: groupFreeMember, Needs: []Ability{Groups},
		Rule:   "a message goes to a member that is free: one whose handler is blocked holds up nothing but what it handles",
		Origin: "pulsar#6496: a message waits at a busy worker while others idle",
	},
	{
		Name: "GroupLeave", Run: groupLeave, Needs: []Ability{Groups},
		Rule:   "a member that unsubscribes gives back what it hasn't begun, and what its handler is doing counts",
		Origin: "nats-streaming-server#157: what a leaving member held was never delivered; nats.go#77",
	},
	{
		Name: "GroupChurn", Run: groupChurn, Needs: []Ability{Groups},
		Rule:   "while members come and go under load, each message is handled once",
		Origin: "nats-streaming-server#862: members stall when one leaves",
	},
	{
		Name: "GroupForgets", Run: groupForgets, Needs: []Ability{Groups},
		Rule:   "a group lasts as long as it has a subscription: what is published afterwards is not kept for the next one",
		Origin: "nats-streaming-server#157: the group stayed when its last member had left",
	},
	{
		Name: "GroupError", Run: groupError, Needs: []Ability{Groups},
		Rule: "in a group that isn't durable a handler's error or panic goes to the hook and redelivers nothing",
	},
	{
		Name: "GroupRefused", Run: groupRefused, Needs: []Ability{Groups},
		Rule:   "a group's bad name is ErrBadSubject, a start position is ErrUnsupported unless it is durable, and nothing is subscribed",
		Origin: "bus/driver took a group without a name for no group",
	},
	{
		Name: "GroupEndings", Run: groupEndings, Needs: []Ability{Groups},
		Rule:   "members end as any subscription does: by Unsubscribe with its fence, in their handler, by Until",
		Origin: "in bus/driver a member whose context ended raced with Close",
	},
	{
		Name: "GroupClose", Run: groupClose, Needs: []Ability{Groups},
		Rule:   "Close hands what was accepted before it to members of groups, too, each message to one of them",
		Origin: "bus/driver lost the last message of a group that was drained",
	},
	{
		Name: "GroupLoss", Run: groupLoss, Needs: []Ability{Groups},
		Rule: "what a group's members are too slow for on an uncaptured subject is counted exactly and told",
	},
	{
		Name: "GroupGap", Run: groupGap, Needs: []Ability{Groups, Streams},
		Rule:   "what limits discard before a group's turn is told to one of its members as ErrGap",
		Origin: "nats-server#2083: messages that expire before they are acknowledged stop a consumer for ever",
	},
	{
		Name: "GroupStreamChanged", Run: groupStreamChanged, Needs: []Ability{Groups, Streams},
		Rule:   "when what captures its pattern changes, a group's members end with ErrStreamChanged and their hooks are told",
		Origin: "in bus/driver Close raced with a feed that was being started again",
	},
	{
		Name: "AttemptZero", Run: attemptZero,
		Rule: "Attempt is 0 outside of durable groups",
	},
}

// group is a name of this check's own, since a backend may share its groups with other buses.
func (c *C) group(s string) string { return c.prefix + "-" + s }

// flavour is a kind of group and what it is for.
type flavour struct {
	name     string
	pattern  string
	subjects []string // the pattern matches these
	option   bus.SubscribeOption
	durable  bool
}

// flavours calls f for groups on an uncaptured pattern, a captured one, one that spans
// both, and a durable one, as far as there are such.
func (c *C) flavours(b bus.Bus, f func(g flavour)) {
	f(flavour{"an uncaptured group", c.subject("free.*"), []string{c.subject("free.a"), c.subject("free.b")}, bus.Group(c.group("g")), false})
	if !c.h.claims(Streams) {
		return
	}
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("held.>"), c.subject("span.held")}})
	f(flavour{"a captured group", c.subject("held.*"), []string{c.subject("held.a"), c.subject("held.b")}, bus.Group(c.group("g")), false})
	f(flavour{"a spanning group", c.subject("span.*"), []string{c.subject("span.held"), c.subject("span.free")}, bus.Group(c.group("g")), false})
	if c.h.claims(DurableGroups) {
		c.ensure(b, bus.StreamConfig{Name: c.stream("DEAD"), Subjects: []string{c.deadOf("d", ">")}})
		f(flavour{"a durable group", c.subject("held.d.*"), []string{c.subject("held.d.a"), c.subject("held.d.b")}, bus.DurableGroup(c.group("d")), true})
	}
}

// deadOf is where a durable group's dead letters go.
func (c *C) deadOf(group, subject string) string {
	return "dead." + c.group(group) + "." + c.subject(subject)
}

// publishOn publishes texts on subjects in turn.
func (c *C) publishOn(b bus.Bus, subjects []string, texts ...string) {
	for i, text := range texts {
		c.publish(b, subjects[i%len(subjects)], text)
	}
}

// awaitAll waits until each of these messages was delivered.
func (c *C) awaitAll(h *history, want ...string) { c.awaitAllWithin(c.h.Patience, h, want...) }

func (c *C) awaitAllWithin(patience time.Duration, h *history, want ...string) {
	missing := map[string]bool{}
	for _, text := range want {
		missing[text] = true
	}
	if len(want) == 0 {
		return
	}
	what := fmt.Sprintf("all of %d messages", len(want))
	defer func() {
		if len(missing) > 0 {
			c.Logf("missing are %d: %s", len(missing), brief(strings.Join(slices.Sorted(maps.Keys(missing)), ", ")))
		}
	}()
	c.awaitWithin(patience, h, what, func(e event) bool {
		if e.kind == delivered {
			delete(missing, e.text)
		}
		return len(missing) == 0
	})
}

// member subscribes a member of g that records in h.
func (c *C) member(b bus.Bus, g flavour, h *history, opts ...bus.SubscribeOption) bus.Subscription {
	return c.subscribeFunc(b, g.pattern, h.handler(), append([]bus.SubscribeOption{g.option, wide, bus.OnError(h.hook())}, opts...)...)
}

func groupShares(c *C) {
	b := c.Bus()
	histories := map[string]*history{}
	const n = 100
	want := sequence("p", 1, n)
	c.flavours(b, func(g flavour) {
		all := &history{name: g.name}
		histories[g.name] = all
		for range 3 {
			c.member(b, g, all)
		}
		outside := c.subscribe(b, g.pattern, wide)
		c.publishOn(b, g.subjects, want...)
		c.awaitAll(all, want...)
		c.awaitAll(outside, want...)
		c.judge(outside, unique, quiet)
	})
	c.settle()
	for _, all := range histories {
		c.judge(all, complete(want...), unique, quiet)
	}
}

func groupsApart(c *C) {
	b := c.Bus()
	want := sequence("p", 1, 50)
	c.kinds(b, func(root string) {
		var groups []*history
		for _, g := range []struct{ name, pattern string }{{"one", root + ".a"}, {"two", root + ".a"}, {"one", root + ".*"}, {"one", root + ".>"}} {
			all := &history{name: fmt.Sprintf("group %s on %s", g.name, g.pattern)}
			groups = append(groups, all)
			for range 2 {
				c.subscribeFunc(b, c.subject(g.pattern), all.handler(), bus.Group(c.group(g.name)), wide)
			}
		}
		c.publishOn(b, []string{c.subject(root + ".a")}, want...)
		for _, all := range groups {
			c.awaitAll(all, want...)
		}
		for _, all := range groups {
			c.judge(all, unique)
		}
	})
}

func groupFreeMember(c *C) {
	b := c.Bus()
	c.flavours(b, func(g flavour) {
		gate, open := c.gate()
		all := &history{name: g.name + ", one of whose members is blocked"}
		inside := make(chan struct{}, 1)
		for range 3 {
			c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
				all.message(m)
				if string(m.Data) == "blocks" {
					inside <- struct{}{}
					<-gate
				}
				return nil
			}, g.option, wide)
		}
		c.publish(b, g.subjects[0], "blocks")
		receive(c, inside, "the handler to be called")
		want := sequence("p", 1, 30)
		c.publishOn(b, g.subjects, want...)
		c.awaitAll(all, want...)
		open()
		c.judge(all, unique)
	})
}

func groupLeave(c *C) {
	b := c.Bus()
	c.flavours(b, func(g flavour) {
		gate, open := c.gate()
		all := &history{name: g.name + ", from which a busy member goes"}
		leaves := &history{name: g.name + ", the member that goes"}
		inside := make(chan struct{}, 1)
		sub := c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
			all.message(m)
			leaves.message(m)
			inside <- struct{}{}
			<-gate
			leaves.add(event{kind: returned, text: string(m.Data)})
			return nil
		}, g.option, wide)
		c.publish(b, g.subjects[0], "begun")
		receive(c, inside, "the handler to be called")
		waiting := sequence("p", 1, 20)
		c.publishOn(b, g.subjects, waiting...)
		c.member(b, g, all)
		done := c.start(func() {
			c.unsubscribe(sub)
			leaves.mark("Unsubscribe has returned")
		})
		c.awaitAll(all, waiting...) // while the one that goes is still at work
		open()
		receive(c, done, "Unsubscribe to return")
		c.publish(b, g.subjects[0], "end")
		c.awaitText(all, "end")
		c.judge(leaves, exactly("begun"), fenced("Unsubscribe has returned"))
		c.judge(all, unique, quiet)
	})
}

func groupChurn(c *C) {
	b := c.Bus()
	c.flavours(b, func(g flavour) {
		all := &history{name: g.name + ", whose members come and go"}
		handler := func(_ context.Context, m *bus.Message) error {
			all.message(m)
			runtime.Gosched()
			return nil
		}
		join := func() bus.Subscription {
			return c.subscribeFunc(b, g.pattern, handler, g.option, wide, bus.OnError(all.hook()))
		}
		join() // so that the group is never empty
		want := sequence("p", 1, 200)
		published := c.start(func() {
			for i, text := range want {
				if err := b.Publish(c.ctx, g.subjects[i%2], []byte(text)); err != nil {
					c.Errorf("Publish: %v", err)
				}
				if i%10 == 0 {
					runtime.Gosched()
				}
			}
		})
		c.together(3, "members to come and go", func(int) {
			for range 8 {
				sub := join()
				runtime.Gosched()
				c.unsubscribe(sub)
			}
		})
		receive(c, published, "Publish to return")
		c.awaitAll(all, want...)
		c.judge(all, unique, quiet)
	})
}

func groupForgets(c *C) {
	b := c.Bus()
	c.flavours(b, func(g flavour) {
		if g.durable {
			return // see DurableGroupPosition
		}
		first, second := &history{name: g.name}, &history{name: g.name + " once more"}
		sub := c.member(b, g, first)
		c.publishOn(b, g.subjects, "to the first", "to the first, too")
		c.awaitAll(first, "to the first", "to the first, too")
		c.unsubscribe(sub)
		c.publishOn(b, g.subjects, "to nobody", "to nobody either")
		c.member(b, g, second)
		c.publishOn(b, g.subjects, "to the second", "to the second, too")
		c.awaitAll(second, "to the second", "to the second, too")
		// One that joins doesn't make the group begin again.
		c.member(b, g, second)
		c.publishOn(b, g.subjects, "to one of two", "to the other of two")
		c.awaitAll(second, "to one of two", "to the other of two")
		c.judge(second, unique, quiet, func(events []event) *fault {
			at := slices.IndexFunc(events, func(e event) bool {
				return strings.HasPrefix(e.text, "to nobody") || strings.HasPrefix(e.text, "to the first")
			})
			if at < 0 {
				return nil
			}
			return &fault{at, "it was published before the group had a subscription"}
		})
	})
}

func groupError(c *C) {
	b := c.Bus()
	fault := errors.New("on purpose")
	var histories []*history
	c.flavours(b, func(g flavour) {
		if g.durable {
			return
		}
		all := &history{name: g.name}
		histories = append(histories, all)
		for range 2 {
			c.subscribeFunc(b, g.pattern, func(_ context.Context, m *bus.Message) error {
				all.message(m)
				switch string(m.Data) {
				case "fails":
					return fault
				case "panics":
					panic("on purpose")
				}
				return nil
			}, g.option, bus.OnError(all.hook()))
		}
		c.publishOn(b, g.subjects, "fails", "panics", "end")
		for _, want := range []error{fault, bus.ErrPanic} {
			if p := c.awaitProblem(all, want).problem; p.Pattern != g.pattern || !slices.Contains(g.subjects, p.Subject) {
				c.Errorf("%s: the problem has pattern %q and subject %q", g.name, p.Pattern, p.Subject)
			}
		}
		c.awaitText(all, "end")
	})
	c.settle()
	for _, all := range histories {
		c.judge(all, complete("fails", "panics", "end"), unique)
	}
}

func groupRefused(c *C) {
	b := c.Bus()
	none := &history{name: "what was refused"}
	refused := func(what, pattern string, want error, opts ...bus.SubscribeOption) {
		if _, err := b.Subscribe(c.ctx, pattern, none.handler(), opts...); !errors.Is(err, want) {
			c.Errorf("%s: want %v, have %v", what, want, err)
		}
	}
	c.kinds(b, func(root string) {
		pattern := c.subject(root + ".a")
		for _, name := range []string{"", "a.b", "a b", "a*", ">", "ä", "a/b", "a\n", strings.Repeat("x", 33)} {
			refused(fmt.Sprintf("Group(%q)", name), pattern, bus.ErrBadSubject, bus.Group(name))
			if root == "held" && c.h.claims(DurableGroups) {
				refused(fmt.Sprintf("DurableGroup(%q)", name), pattern, bus.ErrBadSubject, bus.DurableGroup(name), bus.Attempts(0))
			}
		}
		if root == "held" {
			for what, start := range map[string]bus.SubscribeOption{
				"Last": bus.Last(3), "After": bus.After(c.store(b, pattern, "stored")), "Since": bus.Since(time.Now().Add(-time.Hour)),
				"All": bus.All(), "LastPerSubject": bus.LastPerSubject(),
			} {
				refused(what+" in a group", pattern, bus.ErrUnsupported, bus.Group(c.group("g")), start)
			}
		}
		good := &history{name: "a group with a long name"}
		c.subscribeFunc(b, pattern, good.handler(), bus.Group((c.group("Az09_") + strings.Repeat("x", 32))[:32]))
		c.publish(b, pattern, "end")
		c.awaitText(good, "end")
	})
	c.judge(none, exactly())
}

func attemptZero(c *C) {
	b := c.Bus()
	var histories []*history
	c.kinds(b, func(root string) {
		live := c.subscribe(b, c.subject(root+".a"))
		histories = append(histories, live)
		if c.h.claims(Groups) {
			histories = append(histories, c.subscribe(b, c.subject(root+".a"), bus.Group(c.group("g"))))
		}
		c.publish(b, c.subject(root+".a"), "x")
		c.awaitText(live, "x")
		if root == "held" {
			histories = append(histories, c.subscribe(b, c.subject(root+".a"), bus.All()))
		}
	})
	for _, h := range histories {
		if e := c.awaitText(h, "x"); e.msg.Attempt != 0 {
			c.Errorf("%s: Attempt is %d", h.name, e.msg.Attempt)
		}
	}
}
