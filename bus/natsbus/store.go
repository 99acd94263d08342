package natsbus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// storeFile says whose a store is, as the server doesn't look: in a cluster it deletes the streams of a store that was a
// standalone one after 30 s ("Detected orphaned stream, will cleanup"), and a member's store that is opened by itself
// goes its own way.
const storeFile = "jitney.store"

const standalone = "standalone"

// owner is whose the store of e is to be.
func (e *embedded) owner() string {
	if m := e.cfg.Cluster; m != nil {
		return "member " + m.Member + " of cluster " + m.Name
	}
	return standalone
}

// claim refuses a store that is somebody else's.
func (e *embedded) claim() error {
	owner := e.owner()
	text, err := os.ReadFile(filepath.Join(e.dir, storeFile))
	was := strings.TrimSpace(string(text))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if was, err = unmarkedOwner(e.dir); err == nil && (was == "" || was == owner) {
			err = replaceFile(filepath.Join(e.dir, storeFile), []byte(owner+"\n"))
			was = owner
		}
	case err == nil && was == "":
		was = "of nobody knows whom"
	}
	switch {
	case err != nil:
		return storeError(e.dir, err)
	case was == owner:
		return nil
	case was == standalone:
		return fmt.Errorf("the store in %s is a standalone one, whose streams the cluster would delete: give the %s a new directory, "+
			"and copy the store into the running cluster (jitney bridge, or bus/migrate)", e.dir, owner)
	case owner == standalone:
		return fmt.Errorf("the store in %s is that of a %s: open it with the same parameters %q and %q", e.dir, was, "cluster", "member")
	}
	return fmt.Errorf("the store in %s is that of a %s, not of a %s: give each member a directory of its own, and keep its name", e.dir, was, owner)
}

// bootFile is in a member's store while it is open, and holds what bootOf said then.
// Its second line says if what it had acknowledged was on its disk then.
const (
	bootFile     = "jitney.boot"
	syncedAlways = "always"
)

// beginBoot tells if the machine, or the file system, has crashed while a member's store was open: what the member had acknowledged
// to the others may be gone from its disk, and if it is gone from more than half of them, they may store something else in its
// place, each its own, and the server doesn't notice.
func (e *embedded) beginBoot() error {
	was, err := os.ReadFile(filepath.Join(e.dir, bootFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError(e.dir, err)
	}
	first := err != nil
	boot, level, _ := strings.Cut(strings.TrimSpace(string(was)), "\n")
	crashed := !first && !sameBoot(boot, bootOf(e.dir)) && level != syncedAlways
	if crashed {
		e.log.Warn("natsbus: the machine or the file system has crashed under this member, which may have lost the end of its streams; they are compared with what the others have", "dir", e.dir)
	}
	if e.review, err = e.beginReview(crashed); err != nil {
		return err
	}
	if e.clusterLog, err = e.beginLog(); err != nil {
		return err
	}
	if err := e.reviewSuspicion(); err != nil {
		return storeError(e.dir, err)
	}
	if first {
		return e.noteBoot()
	}
	return nil // it stays until the member is open, so that a start that fails isn't the only one that tells
}

// noteBoot notes that a member's store is open.
func (e *embedded) noteBoot() error {
	text := bootOf(e.dir) + "\n"
	if e.level.always {
		text += syncedAlways + "\n"
	}
	if err := replaceFile(filepath.Join(e.dir, bootFile), []byte(text)); err != nil {
		return storeError(e.dir, err)
	}
	e.booted = true
	return nil
}

// endBoot notes that the store is closed, and the disk has it.
func (e *embedded) endBoot() error {
	if err := os.Remove(filepath.Join(e.dir, bootFile)); err != nil {
		return err
	}
	dir, err := os.Open(e.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// unmarkedOwner finds out whose a store is that nobody has marked; "" where there is none.
func unmarkedOwner(dir string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(dir, storeDir))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// The consensus of a cluster is in the system account's.
	if _, err := os.Stat(consensusDir(dir)); err == nil {
		return "member of a cluster that isn't known here", nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return standalone, nil
}

// newSuffix is behind the name of a file until it takes the place of the one before.
const newSuffix = ".new"

// replaceFile writes a file, whole or not at all, also when the machine stops.
func replaceFile(path string, text []byte) error {
	return replaceFileBy(path, func(*os.File) ([]byte, error) { return text, nil })
}

// replaceFileBy does it with a text that is made when the file is there.
func replaceFileBy(path string, textOf func(f *os.File) ([]byte, error)) error {
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	text, err := textOf(f)
	if err == nil {
		_, err = f.Write(text)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
