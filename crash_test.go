package bus_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnibus-go/bus"
)

// The tests of this file kill processes that have a store open, at moments that
// nothing chooses. Each is run again as its own child, which says on standard
// output what it was told to be done.

// storedValue is what a child was told: the sequence of a message.
type storedValue struct {
	publisher, n int
	seq          uint64
}

func parseStored(line string) (storedValue, bool) {
	var v storedValue
	if _, err := fmt.Sscanf(line, "stored %d %d %d", &v.publisher, &v.n, &v.seq); err != nil {
		return v, false
	}
	return v, true
}

// publishUntilKilled is the child: several publishers that say what was stored.
func publishUntilKilled(t *testing.T, dir string, sync bus.SyncPolicy) {
	b := openOn(t, dir, bus.WithSync(sync))
	st := declare(t, b, bus.StreamConfig{Name: "S", Subjects: []string{"s.*"}})
	for p := range 3 {
		go func() {
			for n := 0; ; n++ {
				ack, err := bus.PublishTo(context.Background(), st, bus.Subject[string]("s.*").At(fmt.Sprint(p)), fmt.Sprintf("%d %d %d", os.Getpid(), p, n))
				if err != nil {
					panic(err)
				}
				say("stored %d %d %d", p, n, ack.Sequence)
			}
		}()
	}
	say("begun")
	select {} // until it is killed
}

// What PublishTo said was stored is there after kill -9, at its sequence, with
// nothing twice and each publisher's messages in order; and the directory is free.
func TestKilledPublishers(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]bus.SyncPolicy{"always": bus.SyncAlways, "relaxed": bus.SyncEvery(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				publishUntilKilled(t, dir, sync)
			}
			dir := t.TempDir()
			told := make(map[uint64]string)
			for round := range underRace(4, 8) {
				v := startVictim(t, dir)
				pid, enough, count := v.cmd.Process.Pid, rand.IntN(300), 0
				if round == 0 {
					enough = 50
				}
				v.kill(t, func(line string) bool {
					if s, ok := parseStored(line); ok {
						count++
						told[s.seq] = fmt.Sprintf(`"%d %d %d"`, pid, s.publisher, s.n)
					}
					return count < enough
				})
				mustHoldWhatWasTold(t, dir, told)
			}
			t.Logf("%d messages were acknowledged", len(told))
		})
	}
}

// mustHoldWhatWasTold opens the directory of killed publishers.
func mustHoldWhatWasTold(t *testing.T, dir string, told map[uint64]string) {
	t.Helper()
	b := openOn(t, dir)
	defer func() { must(t, b.Close()) }()
	if len(told) == 0 {
		return
	}
	all := messagesOf(t, b, "S")
	lost := 0
	for seq, want := range told {
		if all[seq] != want {
			lost++
			t.Errorf("message %d is %q, was acknowledged as %s", seq, all[seq], want)
		}
	}
	next := make(map[string]int) // by process and publisher
	for seq := uint64(1); seq <= uint64(len(all)); seq++ {
		var pid, p, n int
		if _, err := fmt.Sscanf(strings.Trim(all[seq], `"`), "%d %d %d", &pid, &p, &n); err != nil {
			t.Fatalf("message %d of %d is %q", seq, len(all), all[seq])
		}
		key := fmt.Sprintf("%d %d", pid, p)
		if n != next[key] {
			t.Errorf("message %d: process and publisher %s stored %d after %d", seq, key, n, next[key]-1)
		}
		next[key] = n + 1
	}
}

// consumeUntilKilled is the child: it consumes what it stores, and says both.
func consumeUntilKilled(t *testing.T, dir string) {
	b := openOn(t, dir, bus.WithSync(bus.SyncEvery(time.Second)))
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	consume(t, st, "c", "S", func(_ context.Context, m *bus.Msg[int]) error {
		say("handled %d", m.Sequence)
		return nil
	}, bus.Concurrency(4), bus.AckWait(time.Second))
	for n := 0; ; n++ {
		ack, err := bus.PublishTo(t.Context(), st, "S", n)
		must(t, err)
		say("stored 0 %d %d", n, ack.Sequence)
	}
}

// Each stored message is handled at least once, whoever of those that are killed
// again and again handles it.
func TestKilledConsumers(t *testing.T) {
	t.Parallel()
	if dir := victimDir(t); dir != "" {
		consumeUntilKilled(t, dir)
	}
	dir := t.TempDir()
	handled := make(map[uint64]int)
	last := uint64(0)
	for range underRace(4, 8) {
		v := startVictim(t, dir)
		enough, count := 1+rand.IntN(300), 0
		v.kill(t, func(line string) bool {
			if s, ok := parseStored(line); ok {
				last = max(last, s.seq)
			}
			if seq, ok := strings.CutPrefix(line, "handled "); ok {
				n, err := strconv.ParseUint(seq, 10, 64)
				must(t, err)
				handled[n]++
				count++
			}
			return count < enough
		})
	}
	inChildren := len(handled)
	b := openOn(t, dir)
	st, err := b.LookupStream(t.Context(), "S")
	must(t, err)
	stored := streamInfo(t, b, "S").State.LastSeq
	if stored < last {
		t.Errorf("%d messages are stored, %d were acknowledged", stored, last)
	}
	var got ledger
	consume(t, st, "c", "S", got.handle, bus.AckWait(time.Second))
	awaitAll(t, b, "S", "c")
	must(t, b.Close())
	for _, seq := range got.sequences() {
		handled[seq]++
	}
	again := 0
	for seq := uint64(1); seq <= stored; seq++ {
		if handled[seq] == 0 {
			t.Errorf("message %d was never handled", seq)
		}
		again += max(handled[seq]-1, 0)
	}
	t.Logf("%d messages, %d handled by those that were killed, %d times again", stored, inChildren, again)
}

// streamChanges are what a child does to streams again and again.
var streamChanges = map[string]func(t *testing.T, b *bus.Bus, n int){
	"makes streams": func(t *testing.T, b *bus.Bus, n int) {
		name := fmt.Sprintf("N-%d-%d", os.Getpid(), n)
		storeRange(t, declare(t, b, bus.StreamConfig{Name: name}), bus.Subject[int](name), 0, 1)
	},
	"extends a stream": func(t *testing.T, b *bus.Bus, _ int) {
		declare(t, b, bus.StreamConfig{Name: "T", MaxAge: streamInfo(t, b, "T").Config.MaxAge + time.Hour})
	},
}

// A process that is killed while it makes or extends streams leaves a directory
// that opens, with all messages.
func TestKilledWhileStreamsChange(t *testing.T) {
	t.Parallel()
	for name, change := range streamChanges {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if dir := victimDir(t); dir != "" {
				b := openOn(t, dir)
				for n := 0; ; n++ {
					change(t, b, n)
					say("done")
				}
			}
			dir := filled(t)
			for round := range underRace(4, 10) {
				v := startVictim(t, dir)
				enough, count := 1+rand.IntN(20), 0
				v.kill(t, func(string) bool {
					if count++; count == enough {
						spin(time.Duration(rand.IntN(2000)) * time.Microsecond) // somewhere in the middle
					}
					return count < enough
				})
				b, err := quietBus(bus.WithStoreDir(dir))
				if err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				mustHold(t, b, "S", 1, 100)
				mustHold(t, b, "T", 1, 1)
				must(t, b.Close())
			}
			mustBeUnharmed(t, dir)
		})
	}
}

// A bus that is closed while others publish keeps each message whose publisher
// was told that it is stored, and leaves nothing behind.
func TestCloseUnderPublishers(t *testing.T) {
	dir := t.TempDir()
	filesBefore := openFiles(t)
	told := make(map[uint64]string)
	for round := range underRace(10, 30) {
		b, err := quietBus(bus.WithStoreDir(dir), bus.WithSync(bus.SyncEvery(time.Second)))
		must(t, err)
		if round > 0 {
			mustHoldExactly(t, b, told)
		}
		closeUnderPublishers(t, b, round, told)
	}
	b, err := quietBus(bus.WithStoreDir(dir))
	must(t, err)
	mustHoldExactly(t, b, told)
	must(t, b.Close())
	if now := openFiles(t); now > filesBefore+2 { // a pipe of the runtime's own may come
		t.Errorf("%d files were open before, %d are now", filesBefore, now)
	}
}

// closeUnderPublishers closes b at some moment, and adds to told what was stored.
func closeUnderPublishers(t *testing.T, b *bus.Bus, round int, told map[uint64]string) {
	t.Helper()
	st := declare(t, b, bus.StreamConfig{Name: "S"})
	var mu sync.Mutex
	var wg sync.WaitGroup
	var count atomic.Int64
	enough, once := make(chan struct{}), sync.Once{}
	moment := int64(rand.IntN(200))
	for p := range 6 {
		wg.Go(func() {
			for n := 0; ; n++ {
				text := fmt.Sprintf("%d %d %d", round, p, n)
				var opts []bus.StoreOption
				if p%2 == 0 {
					opts = append(opts, bus.MsgID(text))
				}
				ack, err := bus.PublishTo(context.Background(), st, "S", text, opts...)
				if err != nil {
					once.Do(func() { close(enough) })
					if !errors.Is(err, bus.ErrClosed) {
						t.Errorf("a publisher ended with %v", err)
					}
					return
				}
				mu.Lock()
				if before, twice := told[ack.Sequence]; twice {
					t.Errorf("sequence %d was given to %s and %s", ack.Sequence, before, text)
				}
				told[ack.Sequence] = strconv.Quote(text)
				mu.Unlock()
				if count.Add(1) > moment {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	wait(t, enough, "the publishers")
	must(t, b.Close())
	wg.Wait()
}

// mustHoldExactly fails the test unless the stream S has what was told, and no more:
// Close waits for the acknowledgements of what was sent.
func mustHoldExactly(t *testing.T, b *bus.Bus, told map[uint64]string) {
	t.Helper()
	all := messagesOf(t, b, "S")
	for seq, want := range told {
		if all[seq] != want {
			t.Errorf("message %d is %q, was acknowledged as %s", seq, all[seq], want)
		}
	}
	if len(all) != len(told) {
		t.Errorf("%d messages are stored, %d were acknowledged", len(all), len(told))
	}
}
