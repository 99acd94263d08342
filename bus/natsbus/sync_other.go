//go:build !linux

package natsbus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// groupCommit is false: a sync of the whole store takes too long, so the server syncs each message by itself.
const groupCommit = false

// syncStore returns when all files of the store are on the disk.
func syncStore(dir *os.File) error {
	return filepath.WalkDir(dir.Name(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since
		}
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
