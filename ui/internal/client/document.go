package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"regexp"
	"strings"
)

// Document is what a browser is given first.
type Document struct {
	Tab, Shape string
	View
}

var (
	metaPattern  = regexp.MustCompile(`<meta name="jitney" content="([^"]*)">`)
	titlePattern = regexp.MustCompile(`<title>([^<]*)</title>`)
)

// ParseDocument reads a document's source.
func ParseDocument(source string) (Document, error) {
	meta, title := metaPattern.FindStringSubmatch(source), titlePattern.FindStringSubmatch(source)
	_, rest, root := strings.Cut(source, `<div id="jitney-root">`)
	view, _, end := strings.Cut(rest, `</div><div id="jitney-status"`)
	if meta == nil || title == nil || !root || !end {
		return Document{}, errors.New("this is no page of package ui")
	}
	var m struct {
		Tab, Shape string
		V          uint64
		Signals    Signals
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(meta[1])), &m); err != nil {
		return Document{}, fmt.Errorf("the document's meta content: %w", err)
	}
	return Document{m.Tab, m.Shape, View{Version: m.V, HTML: view, Title: html.UnescapeString(title[1]), Signals: m.Signals}}, nil
}
