package switchover

import "time"

// Option is an option of bus.Bus.SwitchTo. The functions of this package make options, and
// so do bus.WithUser, bus.WithToken, bus.WithCredentials, bus.WithNKey and bus.WithTLS.
type Option interface {
	// OnSwitch sets the option. SwitchTo calls it.
	OnSwitch(*Settings)
}

// Settings is what the options set. Programs do not use it.
type Settings struct {
	DryRun   bool           // only look for obstacles
	MaxWait  time.Duration  // how long publishers may wait
	CopyRate int            // bytes a second; 0 for no limit
	Progress func(Progress) // nil for none
	Access   []any          // options of package bus that identify the bus to the target
}

// DefaultMaxWait is MaxWait if the program does not give it, but never more than four fifths of
// bus.WithTimeout. So it is 4 s for a bus with the default timeout of 5 s, and 5 s from
// 6.25 s on.
const DefaultMaxWait = 5 * time.Second

// Embedded is the URL with which SwitchTo brings the streams home: to the embedded server of
// a bus of New with WithStoreDir that is connected to another server.
const Embedded = "embedded:"

type option func(*Settings)

func (o option) OnSwitch(s *Settings) { o(s) }

// DryRun has SwitchTo connect to the target, look for obstacles and return. Nothing changes,
// here or at the target, except that probe streams are created there and deleted.
func DryRun() Option { return option(func(s *Settings) { s.DryRun = true }) }

// MaxWait bounds how long publishers wait, from the beginning of the hold until the commit. If
// the switch is not committed by then, the bus goes back to where it was, and SwitchTo returns an
// *Error. d must be more than zero, else SwitchTo returns a *bus.OptionError.
//
// The default is DefaultMaxWait or four fifths of bus.WithTimeout, whichever is less: 4 s for a bus
// with the default timeout. A call without a deadline ends with the timeout of the bus, so the rest
// of it is left for the way back. With a longer MaxWait raise bus.WithTimeout, too: calls fail whose
// own deadline, or the timeout of the bus, comes earlier.
//
// MaxWait does not count while large streams are copied before publishers wait (Precopy). The way back
// has limits of its own: docs/modes.md.
func MaxWait(d time.Duration) Option {
	return option(func(s *Settings) { s.MaxWait = d })
}

// OnProgress has SwitchTo call fn when a phase begins, when a stream was copied, and while bytes are
// sent, then at most every 50 ms. Where nothing is sent, nothing calls fn. fn is called by several
// goroutines, one call at a time. Publishers wait meanwhile, so it must return quickly, and must
// not call the bus. If it panics, the switch goes on, and the logger of the bus gets an
// error with the panic. A nil fn is ignored.
func OnProgress(fn func(Progress)) Option { return option(func(s *Settings) { s.Progress = fn }) }

// MinCopyRate is the least that CopyRate takes, in bytes a second.
const MinCopyRate = 64 << 10

// CopyRate bounds how much is sent to the target in the phase Precopy, in bytes a second. Without
// it, or with 0, there is no limit. Otherwise it must be at least MinCopyRate, else SwitchTo returns a
// *bus.OptionError. The consumers of large streams take no messages during that phase, so a low rate
// delays them for longer.
func CopyRate(bytesPerSecond int) Option {
	return option(func(s *Settings) { s.CopyRate = bytesPerSecond })
}
