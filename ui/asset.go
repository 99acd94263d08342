package ui

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed runtime
var runtimeFiles embed.FS

// assetPath is the folder of everything that isn't a page.
const assetPath = "/_ui/"

// scripts are what every page runs, in this order.
var scripts = []string{"morph.js", "scroll.js", "echo.js", "ui.js"}

var assetName = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[a-z0-9]+$`)

// asset is a file whose address holds the hash of its content.
type asset struct {
	data    []byte
	kind    string // its content type
	address string
}

// assets are the files that the binary serves.
type assets struct {
	mu     sync.RWMutex
	byName map[string]*asset
	styles []string // the addresses that every page links
	hash   string   // of the runtime's own files
}

// init takes in the runtime's own files.
func (a *assets) init() {
	a.byName = map[string]*asset{}
	sum := sha256.New()
	for _, name := range append([]string{"worker.js", "ui.css", "icon.svg"}, scripts...) {
		data, err := runtimeFiles.ReadFile("runtime/" + name)
		if err != nil {
			panic("ui: the package was built without its runtime: " + err.Error())
		}
		a.add(name, data)
		fmt.Fprintf(sum, "%s %d\n", name, len(data))
		sum.Write(data)
	}
	a.hash = base64.RawURLEncoding.EncodeToString(sum.Sum(nil))[:12]
}

// add takes in a file and returns its address.
func (a *assets) add(name string, data []byte) string {
	if !assetName.MatchString(name) {
		panic(fmt.Sprintf("ui: Asset(%q): want a plain file name such as %q", name, "chat.css"))
	}
	sum := sha256.Sum256(data)
	ext := path.Ext(name)
	address := assetPath + strings.TrimSuffix(name, ext) + "." + base64.RawURLEncoding.EncodeToString(sum[:])[:12] + ext
	kind := mime.TypeByExtension(ext)
	if kind == "" {
		kind = http.DetectContentType(data)
	}
	if ext == ".js" {
		kind = "text/javascript; charset=utf-8"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName[name] != nil {
		panic(fmt.Sprintf("ui: Asset(%q): the name is taken", name))
	}
	a.byName[name] = &asset{data: slices.Clone(data), kind: kind, address: address}
	if ext == ".css" {
		a.styles = append(a.styles, address)
	}
	return address
}

// address returns the address of a runtime file.
func (a *assets) address(name string) string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.byName[name].address
}

// stylesheets returns the addresses that a page links.
func (a *assets) stylesheets() []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.styles
}

// serve answers with the file that the address names. A hash that isn't the current one is
// answered with the current file, which must then not be kept: a document of an older
// server asks for it.
func (a *assets) serve(w http.ResponseWriter, r *http.Request) {
	name, hash := r.PathValue("name"), ""
	if parts := strings.Split(name, "."); len(parts) == 3 {
		name, hash = parts[0]+"."+parts[2], parts[1]
	}
	a.mu.RLock()
	file := a.byName[name]
	a.mu.RUnlock()
	if file == nil {
		http.NotFound(w, r)
		return
	}
	header := w.Header()
	header.Set("Content-Type", file.kind)
	if hash != "" && strings.Contains(file.address, "."+hash+".") {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		header.Set("Cache-Control", "no-store")
	}
	if _, err := w.Write(file.data); err != nil {
		return // the browser has gone away; there is nobody to tell
	}
}
