package embedded

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
)

// serverLog passes the server's lines to the bus's logger. Until the server has
// started it keeps the first fatal one, which is the server's only way to say why
// it did not start. The server's notices become Debug: they tell its life, not the
// program's.
type serverLog struct {
	logger hclog.Logger
	failed chan struct{}          // closed at the first fatal line
	room   *room                  // is told that a limit is reached
	link   atomic.Pointer[string] // the latest error of the leaf link; nil for none

	mu      sync.Mutex
	started bool   // fatal lines are logged
	fatal   string // the first one, valid when failed is closed
}

func (l *serverLog) Noticef(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(text, "Leafnode connection closed") {
		l.link.CompareAndSwap(nil, &text) // an error says more
	}
	l.logger.Debug(text)
}

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(strings.ToLower(text), "leafnode") {
		l.link.Store(&text)
	}
	l.logger.Error(text)
}

// linkError returns why the leaf link is down; "" if the server has not said.
func (l *serverLog) linkError() string {
	text := l.link.Load()
	if text == nil {
		return ""
	}
	if _, after, ok := strings.Cut(*text, " - lid:"); ok { // "<address> - lid:<number> - …"
		_, after, _ = strings.Cut(after, " - ")
		return after + leafRemedy(after)
	}
	return *text + leafRemedy(*text)
}

// leafRemedy says what to do about why a leaf link is down, as far as that is the program's to mend.
func leafRemedy(reason string) string {
	switch {
	case strings.Contains(reason, "Authorization Violation"):
		return "; the hub refuses the user: see user and password in Leaf.URL, or Leaf.Credentials"
	case strings.Contains(reason, "Incorrect Port"):
		return "; that port of the hub is for clients or other servers: name the port of its leafnodes in Leaf.URL (7422, unless the hub's configuration says otherwise)"
	}
	return ""
}

// forgetLinkError is called when the link is up.
func (l *serverLog) forgetLinkError() { l.link.Store(nil) }

// Warnf logs the line, unless it becomes an event.
func (l *serverLog) Warnf(format string, v ...any) {
	if text := fmt.Sprintf(format, v...); !l.room.noticed(text) {
		l.logger.Warn(text)
	}
}

// Debugf formats only when somebody reads it: the server has much to say.
func (l *serverLog) Debugf(format string, v ...any) {
	if l.logger.IsTrace() {
		l.logger.Trace(fmt.Sprintf(format, v...))
	}
}

// Tracef is Debugf: hclog has nothing below trace.
func (l *serverLog) Tracef(format string, v ...any) { l.Debugf(format, v...) }

// Fatalf keeps the line, or logs it; nothing exits.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if l.keep(text) {
		close(l.failed)
		return
	}
	l.logger.Error(text)
}

// keep keeps the first line of a start.
func (l *serverLog) keep(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.fatal != "" {
		return false
	}
	l.fatal = text
	return true
}

// markStarted records that the server has started. It returns the fatal line that came
// before, or "".
func (l *serverLog) markStarted() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = true
	return l.fatal
}
