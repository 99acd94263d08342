package bustest

import (
	"fmt"

	"github.com/jitney-go/jitney/bus"
)

// What EnsureStreams changes. The suite let examples/filebus get all of it wrong on purpose.
var changeChecks = []Check{
	{
		Name: "LowerLimits", Run: lowerLimits, Needs: []Ability{Streams},
		Rule:   "limits that EnsureStreams lowers hold when it returns, whichever they are, and raising them brings nothing back",
		Origin: "nats-server#3595, #6244: a limit per subject that comes with an update isn't applied",
	},
	{
		Name: "ReopenChanged", Run: reopenChanged, Needs: []Ability{Durable},
		Rule: "what EnsureStreams has changed survives Close and Open, and what limits took doesn't come back",
	},
}

// lowered are limits that leave the last four of what fillTwo stores, two of each subject.
func (c *C) lowered() map[string]bus.StreamConfig {
	return map[string]bus.StreamConfig{
		"msgs":    {MaxMsgs: 4},
		"bytes":   {MaxBytes: 4700},
		"subject": {MaxMsgsPerSubject: 2},
	}
}

// fillTwo stores ten messages of 1 KiB on each of two subjects, in turn, in a stream without
// limits, and returns what lowered limits leave of them.
func (c *C) fillTwo(b bus.Bus, root string) (cfg bus.StreamConfig, left []string) {
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
		cfg, left := c.fillTwo(b, root)
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
		cfg, left := c.fillTwo(b, root)
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
