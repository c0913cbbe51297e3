package relay

import (
	"context"
	"fmt"
	"maps"

	"github.com/cockroachdb/pebble/v2"

	"top/lib/delivery"
	"top/lib/top"
)

// flush makes the group durable, and then acknowledges it. One of nothing but
// chunks, on whose words nothing else stands, does so while the next is read.
func (in *intake) flush(ctx context.Context) error {
	if !in.held {
		return nil
	}
	in.a.syncing.Lock()
	if err := in.settled(); err != nil {
		in.a.syncing.Unlock()
		return err
	}
	acks, skips, marks, files := in.acks, in.skips, in.marks, in.files
	if in.b.Empty() && len(in.done)+len(skips)+len(marks[refused])+len(marks[delivered]) == 0 {
		maps.Copy(in.readers, acks)
		in.release()
		in.later = make(chan error, 1)
		go func() {
			err := in.a.durable(files, acks)
			in.a.syncing.Unlock()
			if err == nil {
				err = in.say(ctx, acks, nil, nil)
			}
			if err != nil {
				in.s.close(err)
			}
			in.later <- err
		}()
		return nil
	}
	err := in.whole()
	maps.Copy(in.readers, acks)
	in.a.syncing.Unlock()
	if err != nil {
		return err
	}
	in.release()
	in.a.changed()
	return in.say(ctx, acks, skips, marks)
}

// whole makes a group durable with all that is in it.
func (in *intake) whole() error {
	for f := range in.files {
		if err := f.keep(in.b); err != nil {
			return err
		}
	}
	for _, f := range in.done {
		if err := in.finish(f); err != nil {
			return err
		}
	}
	if err := keepReaders(in.b, in.acks); err != nil {
		return err
	}
	if in.b.Empty() {
		return nil
	}
	if err := in.a.saveSeqs(in.b); err != nil {
		return err
	}
	if err := in.b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// durable makes a group of chunks durable.
func (a *agent) durable(files map[*inFile]bool, acks map[top.ID]delivery.Reader) error {
	b := a.db.db.NewBatch()
	defer b.Close()
	for f := range files {
		if err := f.keep(b); err != nil {
			return err
		}
	}
	if err := keepReaders(b, acks); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func keepReaders(b *pebble.Batch, acks map[top.ID]delivery.Reader) error {
	for channel, r := range acks {
		if err := save(b, key('R', channel[:]), r); err != nil {
			return err
		}
	}
	return nil
}

// settled waits for the group before; its error is the group's.
func (in *intake) settled() error {
	if in.later == nil {
		return nil
	}
	err := <-in.later
	in.later = nil
	return err
}

// release gives the lock of a group back.
func (in *intake) release() {
	if in.look != nil {
		in.look.Close()
		in.look = nil
	}
	in.b.Close()
	in.held = false
	in.a.intake.Unlock()
}

// abandon forgets a group that was not made durable.
func (in *intake) abandon() {
	err := in.settled()
	if !in.held {
		if err == nil {
			return
		}
		in.begin()
	}
	in.a.syncing.Lock() // another's group may be on its way to the disk
	clear(in.a.files)   // what they say of themselves is ahead of the disk
	in.a.syncing.Unlock()
	in.release()
}
