// Command bench measures the buses against what they stand on: natsbus against raw nats.go
// on the same embedded server, membus against queues under a mutex, and against a peer. Both sides run in this
// process, in turn; what it prints is described in docs/performance.md.
//
//	go run . [-run regexp] [-pairs 9] [-json] [-list]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], pairs, os.Stdout, os.Stderr))
}

// run measures the pairs that args name and returns the exit status: 1 if one failed, 2 for wrong arguments.
func run(ctx context.Context, args []string, all []pair, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	pattern := flags.String("run", "", "measure only the pairs whose names match this `regexp`")
	times := flags.Int("pairs", 9, "how often each side is measured; medians count")
	asJSON := flags.Bool("json", false, "print a JSON object per line instead of a table")
	list := flags.Bool("list", false, "list the pairs and what they compare")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	wanted, err := regexp.Compile(*pattern)
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "bench: -run:", err)
		return 2
	case *times < 1:
		fmt.Fprintln(stderr, "bench: -pairs: want at least 1")
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "bench: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	var chosen []pair
	for _, p := range all {
		if wanted.MatchString(p.name) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		fmt.Fprintf(stderr, "bench: no pair matches %q; see -list\n", *pattern)
		return 2
	}
	if *list {
		for _, p := range chosen {
			fmt.Fprintf(stdout, "%-30s %s\n", p.name, p.about)
		}
		return 0
	}
	out := newReport(stdout, *asJSON)
	status := 0
	for _, p := range chosen {
		result, err := p.measure(ctx, full, *times)
		if err != nil {
			fmt.Fprintf(stderr, "bench: %s: %s\n", p.name, err)
			status = 1
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if err := out.print(result); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
	}
	return status
}
