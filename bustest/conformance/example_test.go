package conformance_test

import (
	"os"

	_ "github.com/jitney-go/jitney/bus/membus" // or a backend of one's own
	"github.com/jitney-go/jitney/bustest/conformance"
)

// The command of a backend's author: go run ./cmd/mine -bus mine:./data
func ExampleMain() {
	_ = func() { // func main()
		os.Exit(conformance.Main("mine", os.Args[1:]))
	}
}
