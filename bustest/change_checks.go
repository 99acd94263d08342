package bustest

import (
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

// What a backend that was written from docs/backends.md got wrong on purpose, and the suite let through.
var changeChecks = []Check{
	{
		Name: "LowerLimits", Run: lowerLimits, Needs: []Ability{Streams},
		Rule: "limits that EnsureStreams lowers hold when it returns, whichever they are, and raising them brings nothing back",
	},
	{
		Name: "ReopenChanged", Run: reopenChanged, Needs: []Ability{Durable},
		Rule: "what EnsureStreams has changed survives Close and Open, and what limits took doesn't come back",
	},
	{
		Name: "KeepReplayed", Run: keepReplayed, Needs: []Ability{Streams},
		Rule: "a handler may keep a replayed message for ever, and appending to its data copies",
	},
}

// lowered are limits that leave the last four of what fill stores, two of each subject.
func (c *C) lowered() map[string]bus.StreamConfig {
	return map[string]bus.StreamConfig{
		"msgs":    {MaxMsgs: 4},
		"bytes":   {MaxBytes: 4700},
		"subject": {MaxMsgsPerSubject: 2},
	}
}

// fill stores ten messages of 1 KiB on each of two subjects, in turn, in a stream without limits, and
// returns what lowered limits leave of them.
func (c *C) fill(b bus.Bus, root string) (cfg bus.StreamConfig, left []string) {
	cfg = bus.StreamConfig{Name: c.stream(root), Subjects: []string{c.subject(root + ".*")}}
	c.ensure(b, cfg)
	for i, text := range sequence("p", 1, 20) {
		text = fmt.Sprintf("%-1024s", text)
		c.store(b, c.subject(root+[]string{".a", ".b"}[i%2]), text)
		if i >= 16 {
			left = append(left, text)
		}
	}
	return cfg, left
}

func lowerLimits(c *C) {
	b := c.Bus()
	for root, limits := range c.lowered() {
		cfg, left := c.fill(b, root)
		limits.Name, limits.Subjects = cfg.Name, cfg.Subjects
		for _, cfg := range []bus.StreamConfig{limits, cfg} {
			c.ensure(b, cfg)
			c.checkStored(b, c.subject(root+".*"), left...)
		}
	}
}

func reopenChanged(c *C) {
	e := c.env()
	b := c.open(e)
	kept := map[string][]string{}
	for root, limits := range c.lowered() {
		cfg, left := c.fill(b, root)
		limits.Name, limits.Subjects = cfg.Name, cfg.Subjects
		c.ensure(b, limits)
		if root != "msgs" {
			c.ensure(b, cfg) // without limits again
		}
		kept[root] = left
	}
	c.close(b)

	b = c.open(e)
	for root, left := range kept {
		c.checkStored(b, c.subject(root+".*"), left...)
		c.store(b, c.subject(root+".a"), "one more")
		if root == "msgs" {
			left = left[1:]
		}
		c.checkStored(b, c.subject(root+".*"), append(left, "one more")...)
	}
}

func keepReplayed(c *C) {
	b := c.Bus()
	c.ensure(b, bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.*")}})
	var subjects []string
	for _, text := range sequence("p", 1, 20) {
		c.store(b, c.subject("a."+text), text)
		subjects = append(subjects, c.subject("a."+text))
	}
	for name, start := range map[string]bus.SubscribeOption{"All": bus.All(), "Last": bus.Last(20), "LastPerSubject": bus.LastPerSubject()} {
		for _, again := range []string{"", ", again"} {
			h := c.subscribe(b, c.subject("a.*"), start)
			h.name = name + again
			c.judge(h, exactly(sequence("p", 1, 20)...), onSubjects(subjects...), unchanged)
			for _, e := range h.all() {
				if e.kind != delivered {
					continue
				}
				if room := cap(e.msg.Data) - len(e.msg.Data); room > 0 {
					c.Errorf("%s: the capacity of %q exceeds its length by %d", h.name, e.text, room)
					break
				}
				_ = append(e.msg.Data, "appended"...) // must not reach the next one who reads
			}
		}
	}
}
