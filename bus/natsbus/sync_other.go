//go:build !linux

package natsbus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

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
