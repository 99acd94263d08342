package natsbus

import (
	"os"
	"time"
)

// placeOf can't tell a file from a copy here: whoever puts one back removes jitney.lives.
func placeOf(*os.File) (place string, changed time.Time) { return "", changed }
