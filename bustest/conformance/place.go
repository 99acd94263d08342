package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jitney-go/jitney/bus"
)

// placeholder stands for a fresh directory in a URL.
const placeholder = "{dir}"

// place is where the buses of the checks are opened.
type place struct {
	given, url string   // as it was given, and with the placeholder where a directory goes
	parent     string   // where the directories are made; empty: where temporary ones are
	made       []string // what wasn't there, the innermost first
}

// newPlace reads a URL by its form alone: what a scheme means is the backend's.
func newPlace(url string) *place {
	p := &place{given: url, url: url}
	scheme, rest, ok := strings.Cut(url, ":")
	path, query, hasQuery := strings.Cut(rest, "?")
	if !ok || strings.Contains(url, placeholder) || path == "" || strings.HasPrefix(path, "//") {
		return p
	}
	p.parent, p.url = path, scheme+":"+placeholder
	if hasQuery {
		p.url += "?" + query
	}
	return p
}

// in is the URL of a bus whose directory is dir.
func (p *place) in(dir string) string {
	return strings.ReplaceAll(p.url, placeholder, filepath.ToSlash(dir))
}

// make creates the directory in which those of the checks are.
func (p *place) make() error {
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
			return fmt.Errorf("%s is no directory; %s in the URL stands for a fresh one of each check", dir, placeholder)
		case err == nil:
			return os.MkdirAll(abs, 0o777)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		p.made = append(p.made, dir)
	}
}

// remove takes away what make has created.
func (p *place) remove() error {
	for _, dir := range p.made {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the directory stays: %w", err)
		}
	}
	return nil
}

// explain adds to the error of Open what has been opened and how else it can be said.
func (p *place) explain(err error) error {
	switch {
	case p.parent != "":
		return fmt.Errorf("%w (each check has a directory of its own in %s; with %s in the URL you say where it goes)", err, p.parent, placeholder)
	case errors.Is(err, bus.ErrLocked):
		return fmt.Errorf("%w; in a URL, %s is a fresh directory for each check", err, placeholder)
	}
	return err
}
