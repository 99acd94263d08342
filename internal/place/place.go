// Package place reads from the URL of a bus where its store goes, so that a command can open that bus
// on directories of its own and take them away again. It knows URLs by their form alone: what a scheme
// means is the backend's.
package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Dir stands for a fresh directory in a URL.
const Dir = "{dir}"

// Place is where the buses of a URL are opened.
type Place struct {
	url    string   // with Dir where a directory goes
	parent string   // where the directories are made; empty: where temporary ones are
	made   []string // what wasn't there, the innermost first
}

// Of returns the place of a URL. One without Dir whose scheme is followed by a path, such as
// nats:./data/x, means directories made in that one.
func Of(url string) *Place {
	p := &Place{url: url}
	scheme, rest, ok := strings.Cut(url, ":")
	path, query, hasQuery := strings.Cut(rest, "?")
	if !ok || strings.Contains(url, Dir) || path == "" || strings.HasPrefix(path, "//") {
		return p
	}
	p.parent, p.url = path, scheme+":"+Dir
	if hasQuery {
		p.url += "?" + query
	}
	return p
}

// Parent is the directory in which those of the buses are made; empty stands for that of temporary ones.
func (p *Place) Parent() string { return p.parent }

// InDir reports whether a bus has a directory of its own.
func (p *Place) InDir() bool { return strings.Contains(p.url, Dir) }

// Elsewhere reports whether the URL names a host, whose server outlives those who use it.
func (p *Place) Elsewhere() bool {
	_, rest, _ := strings.Cut(p.url, ":")
	return strings.HasPrefix(rest, "//")
}

// In is the URL of a bus whose directory is dir. Where InDir is false, it is the URL as it was given.
func (p *Place) In(dir string) string {
	return strings.ReplaceAll(p.url, Dir, filepath.ToSlash(dir))
}

// Make creates the parent directory.
func (p *Place) Make() error {
	if p.parent == "" {
		return nil
	}
	abs, err := filepath.Abs(p.parent)
	if err != nil {
		return err
	}
	p.parent = abs
	for dir := abs; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is no directory; %s in the URL stands for a fresh one", dir, Dir)
		case err == nil:
			return os.MkdirAll(abs, 0o777)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR): // below a file, the file is named
			return err
		}
		p.made = append(p.made, dir)
	}
}

// Remove takes away what Make has created.
func (p *Place) Remove() error {
	for _, dir := range p.made {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the directory stays: %w", err)
		}
	}
	return nil
}
