package ui

// The bus that an App has by default. A program that gives Options.Bus could do without
// it, but whether one writes that option isn't known before the link.
import _ "github.com/jitney-go/jitney/bus/natsbus"
