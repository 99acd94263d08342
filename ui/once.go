package ui

import (
	"io"
	"strings"
	"sync"

	g "maragu.dev/gomponents"
)

// Once renders fn's node once for all tabs and remembers the text under key, which must be comparable and say everything
// that the node depends on: a struct of the row's values, say. The memory is that of the process and
// bounded (16 MiB); what wasn't used for long is rendered again.
//
// It is for rows that many tabs show alike. A node with signals or actions is the same only in tabs of one
// page, so the key of such a row names the page, too.
func Once(key any, fn func() g.Node) g.Node {
	return g.NodeFunc(func(w io.Writer) error {
		text, ok := shared.find(key)
		if !ok {
			var b strings.Builder
			if node := fn(); node != nil {
				if err := node.Render(&b); err != nil {
					return err
				}
			}
			text = b.String()
			shared.store(key, text)
		}
		_, err := io.WriteString(w, text)
		return err
	})
}

// shared holds what Once has rendered.
var shared = &textCache{limit: 8 << 20}

// textCache keeps texts in two generations: when the younger one is full, the older one is
// forgotten. What is used moves to the younger one.
type textCache struct {
	limit int // bytes in a generation

	mu         sync.RWMutex
	young, old map[any]string
	size       int // of young
}

// entryCost is about what an entry costs beside its text.
const entryCost = 128

func (c *textCache) find(key any) (string, bool) {
	text, ok, aged := c.look(key)
	if aged {
		c.store(key, text)
	}
	return text, ok || aged
}

// look panics when key isn't comparable, and must not keep the lock then.
func (c *textCache) look(key any) (text string, young, aged bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if text, young = c.young[key]; !young {
		text, aged = c.old[key]
	}
	return text, young, aged
}

func (c *textCache) store(key any, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.young[key]; ok || len(text) > c.limit/8 {
		return
	}
	if c.young == nil || c.size+len(text)+entryCost > c.limit {
		c.young, c.old, c.size = map[any]string{}, c.young, 0
	}
	c.young[key] = text
	c.size += len(text) + entryCost
}
