package natsbus

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/minio/highwayhash"
)

// copiesDir is where copies of configurations are, in the store's directory.
const copiesDir = "jitney.configs"

// Where the server has a configuration (writeStreamMeta and writeConsumerMeta in server/filestore.go of nats-server 2.15).
const (
	metaFile = "meta.inf"
	sumFile  = "meta.sum" // the hash of the other one in hexadecimal, with the name as its key
)

// copies are of the configurations of streams and of durable groups' consumers. The server writes each in two files, and
// passes over a stream whose files don't belong together: a crash between the two, or damage, and its messages
// would be there and the stream not.
type copies struct {
	dir     string
	streams string // the directory of the streams
}

// configOf is that of a stream or, if consumer isn't empty, of one of its consumers.
type configOf struct{ stream, consumer string }

// at returns where the server has a config, and of what the key of its hash is made.
func (c *copies) at(of configOf) (dir, key string) {
	dir, key = filepath.Join(c.streams, of.stream), of.stream
	if of.consumer != "" {
		dir, key = filepath.Join(dir, "obs", of.consumer), key+"/"+of.consumer
	}
	return dir, key
}

// copyOf returns where the copy of a config is. No name of a stream or consumer has a dot.
func (c *copies) copyOf(of configOf) string {
	if of.consumer == "" {
		return filepath.Join(c.dir, of.stream)
	}
	return filepath.Join(c.dir, of.stream+"."+of.consumer)
}

// read returns a config as the server has it, nil if it couldn't read that.
func (c *copies) read(of configOf) ([]byte, error) {
	dir, key := c.at(of)
	text, err := os.ReadFile(filepath.Join(dir, metaFile))
	sum, err2 := os.ReadFile(filepath.Join(dir, sumFile))
	if err = errors.Join(err, err2); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || len(text) == 0 || string(sum) != metaSum(key, text) {
		return nil, err
	}
	return text, nil
}

func metaSum(key string, text []byte) string {
	k := sha256.Sum256([]byte(key))
	return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, highwayhash.Sum64(text, k[:])))
}

// keep copies a config, which the server has just written.
func (c *copies) keep(of configOf) error {
	text, err := c.read(of)
	if err != nil || text == nil {
		return err
	}
	have, err := os.ReadFile(c.copyOf(of))
	if err == nil && bytes.Equal(have, text) {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	return replaceFile(c.copyOf(of), text)
}

// forget removes the copy of a config, which is about to be removed. A stream's consumers go with it.
func (c *copies) forget(of configOf) error {
	paths := []string{c.copyOf(of)}
	if of.consumer == "" {
		more, err := glob(c.dir, filepath.Base(c.copyOf(configOf{of.stream, "*"})))
		if err != nil {
			return err
		}
		paths = append(paths, more...)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mend puts copies in the place of configs that the server couldn't read, and copies the others. It returns those that
// it has mended, and the streams with messages whose config is lost. The server must not run.
func (c *copies) mend() (mended []configOf, lost []string, err error) {
	streams, err := subdirs(c.streams)
	if err != nil {
		return nil, nil, err
	}
	for _, stream := range streams {
		consumers, err := subdirs(filepath.Join(c.streams, stream, "obs"))
		if err != nil {
			return nil, nil, err
		}
		for _, consumer := range append([]string{""}, consumers...) {
			of := configOf{stream, consumer}
			there, did, err := c.mendOne(of)
			if err != nil {
				return nil, nil, err
			}
			if did {
				mended = append(mended, of)
			}
			if !there && consumer == "" && c.hasMessages(stream) {
				lost = append(lost, stream)
			}
		}
	}
	return mended, lost, nil
}

// mendOne reports whether the server can read a config, and whether it couldn't before.
func (c *copies) mendOne(of configOf) (there, mended bool, err error) {
	text, err := c.read(of)
	if err != nil {
		return false, false, err
	}
	have, err := os.ReadFile(c.copyOf(of))
	switch {
	case text != nil && err == nil: // an operator may have changed it since
		return true, false, c.keep(of)
	case text != nil && errors.Is(err, fs.ErrNotExist):
		if of.consumer == "" { // of consumers those of groups are copied when they are made
			err = c.keep(of)
		}
		return true, false, ignoreAbsence(err)
	case err != nil:
		return false, false, ignoreAbsence(err)
	}
	dir, key := c.at(of)
	err = replaceFile(filepath.Join(dir, metaFile), have)
	if err == nil {
		err = replaceFile(filepath.Join(dir, sumFile), []byte(metaSum(key, have)))
	}
	return true, true, err
}

func ignoreAbsence(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// hasMessages reports whether there are messages of a stream.
func (c *copies) hasMessages(stream string) bool {
	files, err := glob(filepath.Join(c.streams, stream), messageFiles)
	if err != nil {
		return false
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return true
		}
	}
	return false
}

// subdirs returns the names of the directories in one, but of none that is hidden; nothing if it isn't there.
func subdirs(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, ignoreAbsence(err)
}
