package bustest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

var damageChecks = []Check{
	{
		Name: "Damaged", Run: damaged, Needs: []Ability{Durable}, process: true,
		Rule: "a store whose files are cut short, garbled, missing or read-only opens with what is left, or Open says which it is: nothing panics, " +
			"nothing is delivered that wasn't published, and no cursor is given twice",
		Origin: "nats-server gives sequences again after a flipped bit; #7549",
	},
}

const (
	damagedMsgs   = 60
	damagedResume = 20 // after this one the child resumes
	damagedFiles  = 24 // at most, of a store that has more
)

// damages are ways to harm a file.
var damages = []struct {
	name string
	do   func(c *C, path string, data []byte) error
}{
	{"cut in half", func(_ *C, path string, data []byte) error { return os.Truncate(path, int64(len(data)/2)) }},
	{"emptied", func(_ *C, path string, _ []byte) error { return os.Truncate(path, 0) }},
	{"removed", func(_ *C, path string, _ []byte) error { return os.Remove(path) }},
	{"with a flipped bit", func(c *C, path string, data []byte) error {
		data[c.rand.IntN(len(data))] ^= 1 << c.rand.IntN(8)
		return os.WriteFile(path, data, 0o600)
	}},
	{"garbled", func(c *C, path string, data []byte) error {
		for i := range data {
			data[i] = byte(c.rand.IntN(256))
		}
		return os.WriteFile(path, data, 0o600)
	}},
}

// damagedText is the data of message n, which shows whether it was changed.
func damagedText(n int) string {
	h := fnv.New64a()
	text := numbered("p", n)
	h.Write([]byte(text)) // never fails
	return fmt.Sprintf("%s %x %s", text, h.Sum64(), strings.Repeat("filler ", n%50))
}

func (c *C) damagedStream() bus.StreamConfig {
	return bus.StreamConfig{Name: c.stream("S"), Subjects: []string{c.subject("a.>")}}
}

func damaged(c *C) {
	if e, role, arg := c.inChild(); role != "" {
		c.openDamaged(e.Dir, arg)
		return
	}
	e := c.env()
	b := c.open(e)
	c.ensure(b, c.damagedStream())
	var cursors []bus.Cursor
	for n := range damagedMsgs {
		cursors = append(cursors, c.store(b, c.subject(fmt.Sprintf("a.%d", n%3)), damagedText(n+1)))
	}
	c.close(b)
	var files []string
	err := fs.WalkDir(os.DirFS(e.Dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() == 0 {
			return err
		}
		files = append(files, path)
		return nil
	})
	if err != nil {
		c.Fatalf("the files of the store: %v", err)
	}
	if len(files) == 0 {
		c.NotClaimed("what is stored isn't in Env.Dir, where the check could damage it")
	}
	c.rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	files = files[:min(len(files), damagedFiles)]

	// The cases are numbered directories of one.
	cases := &Env{Dir: c.TempDir()}
	var names []string
	for _, file := range files {
		for _, d := range damages {
			dir := c.copyStore(e.Dir, cases.Dir, len(names))
			path := filepath.Join(dir, filepath.FromSlash(file))
			data, err := os.ReadFile(path)
			if err == nil {
				err = d.do(c, path, data)
			}
			if err != nil {
				c.Fatalf("damage %s: %v", file, err)
			}
			names = append(names, file+" "+d.name)
		}
	}
	c.readOnly(c.copyStore(e.Dir, cases.Dir, len(names)))
	names = append(names, "a store that is read-only")

	p := c.spawn(cases, strconv.Itoa(len(names)), cursors[damagedResume-1].String())
	for i, name := range names {
		p.expect("opening")
		dir := filepath.Join(cases.Dir, strconv.Itoa(i))
		c.judgeDamaged(p, name, dir, cursors)
	}
}

func (c *C) copyStore(from, to string, number int) string {
	dir := filepath.Join(to, strconv.Itoa(number))
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		c.Fatalf("copy the store: %v", err)
	}
	return dir
}

// readOnly takes the right to write.
func (c *C) readOnly(dir string) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		return errors.Join(err, os.Chmod(path, 0o400))
	})
	for _, path := range dirs {
		err = errors.Join(err, os.Chmod(path, 0o500))
	}
	if err != nil {
		c.Fatalf("make the store read-only: %v", err)
	}
	if os.Mkdir(filepath.Join(dir, "bustest"), 0o700) == nil {
		c.NotChecked("a store that is read-only: this process may write there all the same, as a superuser")
	}
	c.Cleanup(func() {
		for _, path := range dirs {
			_ = os.Chmod(path, 0o700) // so that it can be removed, which says if it can't
		}
	})
}

// judgeDamaged reads what the child says of one case and judges it.
func (c *C) judgeDamaged(p *child, name, dir string, cursors []bus.Cursor) {
	all, resumed := &history{name: name + ": what is left"}, &history{name: name + ": resumed after message " + strconv.Itoa(damagedResume)}
	last := cursors[len(cursors)-1]
	for {
		words, ok := p.next()
		if !ok {
			c.Fatalf("%s: the process has died, or had to be killed since it hung:\n%s", name, p.said())
		}
		h := all
		if strings.HasPrefix(words[0], "resumed") {
			h = resumed
		}
		switch words[0] {
		case "refused":
			// Whoever is told must know where to look.
			if text := strings.Join(words[1:], " "); !strings.Contains(text, dir) {
				c.Errorf("%s: the error doesn't say where that is, %s: %s", name, dir, text)
			}
			return
		case "fault":
			c.Errorf("%s: %s", name, strings.Join(words[1:], " "))
			return
		case "garbled", "resumed-garbled":
			h.add(event{kind: delivered, text: "garbled", cursor: c.parse(words[1])})
			c.Errorf("%s: a message was changed\n%s", h.name, around(h.all(), len(h.all())-1))
		case "got", "resumed-got":
			h.add(event{kind: delivered, text: words[1], cursor: c.parse(words[2])})
		case "resumed-gap":
			gap := &bus.GapError{Stream: "S", After: c.parse(strings.Trim(words[1], `"`)), Before: c.parse(strings.Trim(words[2], `"`))}
			h.add(event{kind: problem, problem: bus.Problem{Err: gap}})
		case "next":
			next := c.parse(words[1])
			if order, same := next.Compare(last); same && order <= 0 {
				c.Errorf("%s: the next message got cursor %s, which was given before: the last one stood at %s", name, next, last)
			}
			resumed.add(event{kind: delivered, text: "next", cursor: next})
			c.judge(all, inStreamOrder, ordered, unique, asStored(cursors))
			c.judge(resumed, inStreamOrder, ordered, unique, asStored(cursors), behindCursor(cursors[damagedResume-1]))
			return
		}
	}
}

func (c *C) parse(text string) bus.Cursor {
	cursor, err := bus.ParseCursor(text)
	if err != nil {
		c.Fatalf("the child says: %v", err)
	}
	return cursor
}

// asStored: in the epoch in which it was stored each message stands where it was.
func asStored(cursors []bus.Cursor) judge {
	return func(events []event) *fault {
		for at, e := range events {
			_, n, ok := number(e.text)
			if !ok || e.kind != delivered {
				continue
			}
			if _, same := e.cursor.Compare(cursors[0]); same && e.cursor != cursors[n-1] {
				return &fault{at, fmt.Sprintf("it was stored at %s", cursors[n-1])}
			}
		}
		return nil
	}
}

// behindCursor: what was delivered stands behind a cursor, or is of another epoch, of which a gap tells.
func behindCursor(after bus.Cursor) judge {
	return func(events []event) *fault {
		told := false
		for at, e := range events {
			if e.kind == problem {
				told = true
				continue
			}
			if order, same := e.cursor.Compare(after); !same && !told {
				return &fault{at, "it is of another epoch, and no gap was told"}
			} else if same && order <= 0 {
				return &fault{at, "it doesn't stand behind the cursor"}
			}
		}
		return nil
	}
}

// openDamaged is what the child of Damaged does: it opens the stores below dir, and says what it finds.
func (c *C) openDamaged(dir, after string) {
	resume, err := bus.ParseCursor(after)
	if err != nil {
		c.say("fault", err)
	}
	for i := 0; ; i++ {
		e := &Env{Dir: filepath.Join(dir, strconv.Itoa(i)), ctx: c.ctx}
		if _, err := os.Stat(e.Dir); err != nil {
			return
		}
		c.say("opening", i)
		b, err := c.h.Open(e)
		if err != nil {
			c.say("refused", err)
			continue
		}
		if next, err := c.useDamaged(b, resume); err != nil {
			c.say("fault", err)
		} else {
			c.say("next", next)
		}
		ctx, cancel := context.WithTimeout(c.ctx, childPatience)
		if err := b.Close(ctx); err != nil {
			c.say("fault", "Close:", err)
		}
		cancel()
	}
}

// useDamaged does what a program does when it starts.
func (c *C) useDamaged(b bus.Bus, resume bus.Cursor) (next bus.Cursor, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, childPatience)
	defer cancel()
	if err := b.EnsureStreams(ctx, c.damagedStream()); err != nil {
		return next, fmt.Errorf("EnsureStreams: %w", err)
	}
	done := make(chan struct{})
	for prefix, start := range map[string]bus.SubscribeOption{"": bus.All(), "resumed-": bus.After(resume)} {
		_, err := b.Subscribe(ctx, c.subject("a.*"), func(_ context.Context, m *bus.Message) error {
			text, _, _ := strings.Cut(string(m.Data), " ")
			_, n, _ := number(text)
			switch {
			case string(m.Data) == "next":
				if prefix != "" {
					close(done)
				}
			case n < 1 || n > damagedMsgs || string(m.Data) != damagedText(n) || m.Subject != c.subject(fmt.Sprintf("a.%d", (n-1)%3)):
				c.say(prefix+"garbled", m.Cursor)
			default:
				c.say(prefix+"got", text, m.Cursor)
			}
			return nil
		}, start, bus.OnError(func(p bus.Problem) {
			var gap *bus.GapError
			if errors.As(p.Err, &gap) {
				c.say(prefix+"gap", strconv.Quote(gap.After.String()), strconv.Quote(gap.Before.String()))
			}
		}))
		if err != nil {
			return next, fmt.Errorf("subscribe: %w", err)
		}
	}
	var r bus.Receipt
	if err := b.Publish(ctx, c.subject("a.1"), []byte("next"), bus.WithReceipt(&r)); err != nil {
		return next, fmt.Errorf("publish: %w", err)
	}
	select {
	case <-done:
	case <-ctx.Done():
		return next, errors.New("what was published afterwards isn't delivered")
	}
	return r.Cursor, nil
}
