// Package arguments reads the arguments of a subcommand.
package arguments

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// Parse sets the flags. Asked for help, it writes usage, in which %s is the name of the flags, and what they are. What is
// wrong is an error of one line.
func Parse(flags *flag.FlagSet, args []string, usage string, stdout io.Writer) (help bool, err error) {
	flags.SetOutput(io.Discard) // it would write more lines
	err = flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, usage, flags.Name())
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return true, nil
	case err != nil:
		return false, fmt.Errorf("%w; -h shows the flags", err)
	case flags.NArg() > 0:
		return false, fmt.Errorf("unexpected %q; -h shows the flags", flags.Arg(0))
	}
	return false, nil
}
