// Command jitney checks and compares message buses, and moves streams between them.
//
//	jitney bridge -from URL -to URL    # copy streams from one bus to another
//	jitney compare -bus URL -bus URL   # give the same chat to several buses
//	jitney conformance -bus URL        # check a bus against the contract
//	jitney help                        # list the subcommands
//	jitney help compare                # what one does, and its flags
package main

import (
	"fmt"
	"os"
	"strings"

	_ "github.com/jitney-go/jitney/bus/membus"
	_ "github.com/jitney-go/jitney/bus/natsbus"
	"github.com/jitney-go/jitney/bustest/conformance"
	"github.com/jitney-go/jitney/cmd/jitney/internal/bridge"
	"github.com/jitney-go/jitney/cmd/jitney/internal/compare"
)

// subcommand is one thing that jitney does. Its run is given its whole name and the
// arguments behind it, and returns the exit status.
type subcommand struct {
	name, about string
	run         func(name string, args []string) int
}

var subcommands = []subcommand{
	{"bridge", "copy streams from one bus to another, and compare both ends", bridge.Main},
	{"compare", "give the same chat to several buses, and show what differs", compare.Main},
	{"conformance", "check a bus against the contract", conformance.Main},
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage())
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) == 1 {
			fmt.Print(usage())
			return 0
		}
		args = []string{args[1], "-h"}
	}
	for _, s := range subcommands {
		if s.name == args[0] {
			return s.run("jitney "+s.name, args[1:])
		}
	}
	fmt.Fprintf(os.Stderr, "jitney: unknown subcommand %q; jitney help lists them\n", args[0])
	return 2
}

func usage() string {
	var b strings.Builder
	b.WriteString("Usage: jitney SUBCOMMAND [flags]\n\n")
	for _, s := range subcommands {
		fmt.Fprintf(&b, "  %-12s %s\n", s.name, s.about)
	}
	b.WriteString("\njitney help SUBCOMMAND shows its flags.\n")
	return b.String()
}
