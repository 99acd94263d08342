package e2e

// buildExamples builds the programs that tests start.
func buildExamples(dir string) error { return nil }
