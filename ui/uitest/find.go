package uitest

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

// closest returns the nearest of n and the elements around it that match, or nil.
func closest(n *html.Node, match func(n *html.Node) bool) *html.Node {
	for ; n != nil; n = n.Parent {
		if n.Type == html.ElementNode && match(n) {
			return n
		}
	}
	return nil
}

// isOneOf reports whether n is an element of one of these kinds.
func isOneOf(n *html.Node, kinds ...string) bool {
	return n.Type == html.ElementNode && slices.Contains(kinds, n.Data)
}

// unseen reports whether nobody reads n.
func unseen(n *html.Node) bool {
	return n.Type == html.CommentNode || has(n, "hidden") || isOneOf(n, "head", "template", "script", "style")
}

// inline are the elements that don't begin a line of their own.
var inline = strings.Fields("a abbr b bdi bdo cite code data del dfn em i ins kbd label mark q s samp small span strong sub sup time u var button")

// textOf returns the text in n, a line for each block.
func textOf(n *html.Node) string {
	var b strings.Builder
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if unseen(n) || isOneOf(n, "select", "textarea") { // what these hold is a value, or the choice of one
			return
		}
		if n.Type == html.TextNode {
			b.WriteString(strings.Map(func(r rune) rune {
				if r == '\n' {
					return ' '
				}
				return r
			}, n.Data))
		}
		block := n.Type == html.ElementNode && !isOneOf(n, inline...)
		if block {
			b.WriteByte('\n')
		}
		for c := range n.ChildNodes() {
			walk(c)
		}
		if block {
			b.WriteByte('\n')
		}
	}
	walk(n)
	var lines []string
	for line := range strings.Lines(b.String()) {
		if words := strings.Fields(line); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return strings.Join(lines, "\n")
}

// sight is what somebody sees who looks at a page once.
type sight struct {
	root *html.Node
	text string
}

// see parses a view that is shown with errors.
func see(view string, errors []string) sight {
	root, err := html.Parse(strings.NewReader("<body>" + view))
	if err != nil {
		panic(err) // a strings.Reader doesn't fail, and any text is HTML
	}
	text := textOf(root)
	for _, e := range errors {
		if e != "" {
			text += "\n" + e
		}
	}
	return sight{root, text}
}

// find returns the one element of a kind that has a name.
func (s sight) find(kind, name string, is func(n *html.Node) bool, names func(n *html.Node) []string) (*html.Node, error) {
	var there []string
	var found []*html.Node
	for n := range s.root.Descendants() {
		if n.Type != html.ElementNode || closest(n, unseen) != nil || !is(n) {
			continue
		}
		its := names(n)
		if id := attr(n, "id"); id != "" {
			its = append(its, "#"+id)
		}
		its = slices.DeleteFunc(its, func(s string) bool { return s == "" })
		there = append(there, strings.Join(its, ", or "))
		if slices.Contains(its, name) {
			found = append(found, n)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return nil, fmt.Errorf("%d %s are called %q; there are:\n  %s\nThe page says:\n%s", len(found), kind, name, strings.Join(there, "\n  "), s.text)
}

// field returns a field that is bound to a signal.
func (s sight) field(name string) (*html.Node, error) {
	return s.find("fields", name, func(n *html.Node) bool {
		return isOneOf(n, "input", "textarea", "select") && has(n, "data-bind") && !has(n, "disabled")
	}, func(n *html.Node) []string {
		names := []string{attr(n, "aria-label"), attr(n, "placeholder")}
		if label := closest(n, func(n *html.Node) bool { return isOneOf(n, "label") }); label != nil {
			names = append(names, line(label))
		}
		for l := range s.root.Descendants() {
			if isOneOf(l, "label") && has(l, "for") && attr(l, "for") == attr(n, "id") {
				names = append(names, line(l))
			}
		}
		return names
	})
}

// clickable returns a button or a link.
func (s sight) clickable(name string) (*html.Node, error) {
	return s.find("buttons and links", name, func(n *html.Node) bool {
		return (isOneOf(n, "button", "a") || has(n, "data-on-click") || submits(n)) && !has(n, "disabled")
	}, func(n *html.Node) []string {
		if n.Data == "input" {
			return []string{attr(n, "aria-label"), attr(n, "value")}
		}
		return []string{attr(n, "aria-label"), line(n)}
	})
}

func submits(n *html.Node) bool {
	kind := attr(n, "type")
	return n.Data == "button" && (kind == "" || kind == "submit") || n.Data == "input" && kind == "submit"
}

// line is the text in n as one line.
func line(n *html.Node) string { return strings.ReplaceAll(textOf(n), "\n", " ") }

// choice is an option of a select.
type choice struct{ text, value string }

func options(n *html.Node) []choice {
	var all []choice
	for o := range n.Descendants() {
		if isOneOf(o, "option") {
			c := choice{text: line(o), value: line(o)}
			if has(o, "value") {
				c.value = attr(o, "value")
			}
			all = append(all, c)
		}
	}
	return all
}
