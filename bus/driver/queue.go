package driver

import (
	"sync"
	"time"

	"github.com/jitney-go/jitney/bus"
)

// item is a waiting message.
type item struct {
	m      *bus.Message
	at     time.Duration // on the driver's clock
	before int64         // bytes that the feed had seen when it came, from 1; 0: not known
}

// clockStart is when the driver's clock began, which takes a third of a time.Time's place.
var clockStart = time.Now()

func clock() time.Duration { return time.Since(clockStart) }

// queue is a first-in first-out queue of messages that counts their bytes. It takes memory for what it holds, in blocks that
// queues share, and keeps one for itself.
type queue struct {
	head, tail  *block // nil before the first message
	first, last int    // where the next one is taken in head, and put in tail
	len         int
	bytes       int
}

const blockLen = 15

type block struct {
	items [blockLen]item
	next  *block
}

var blocks = sync.Pool{New: func() any { return new(block) }}

func (q *queue) push(it item) {
	if q.tail == nil {
		q.head = new(block)
		q.tail = q.head
	} else if q.last == blockLen {
		q.tail.next = blocks.Get().(*block)
		q.tail, q.last = q.tail.next, 0
	}
	q.tail.items[q.last] = it
	q.last++
	q.len++
	q.bytes += messageSize(it.m)
}

// peek returns the first message that waits.
func (q *queue) peek() item { return q.head.items[q.first] }

// copyTo fills items with the first messages that wait, as far as they are in one block, and returns how many.
func (q *queue) copyTo(items []item) int {
	return copy(items, q.head.items[q.first:min(blockLen, q.first+q.len)])
}

func (q *queue) pop() item {
	it := q.peek()
	q.drop(1)
	return it
}

// drop takes the first n messages, which are in one block.
func (q *queue) drop(n int) {
	items := q.head.items[q.first : q.first+n]
	for i := range items {
		q.bytes -= messageSize(items[i].m)
	}
	clear(items)
	q.first += n
	q.len -= n
	switch {
	case q.len == 0: // head is tail
		q.first, q.last = 0, 0
	case q.first == blockLen:
		emptied := q.head
		q.head, q.first = emptied.next, 0
		emptied.next = nil
		blocks.Put(emptied)
	}
}

func (q *queue) clear() { *q = queue{} }
