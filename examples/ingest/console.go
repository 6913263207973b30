package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// console writes reports, and on a terminal a progress bar below them. Safe for concurrent use.
type console struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	shown    int // length of the shown bar in characters
}

func newConsole(w io.Writer, terminal bool) *console {
	return &console{w: w, terminal: terminal}
}

// Write writes a report. It removes the bar first.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
	return c.w.Write(p)
}

// show shows text as the bar. It ignores errors: the program goes on without a bar.
func (c *console) show(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.terminal {
		return
	}
	fmt.Fprint(c.w, "\r", text, strings.Repeat(" ", max(0, c.shown-len(text))))
	c.shown = max(c.shown, len(text))
}

// erase removes the bar.
func (c *console) erase() {
	if c.shown > 0 {
		fmt.Fprint(c.w, "\r", strings.Repeat(" ", c.shown), "\r")
		c.shown = 0
	}
}

// endBar removes the bar at the end.
func (c *console) endBar() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.erase()
}

// bar is a progress bar. It shows the share of the bytes if their number is known, and otherwise the
// number of lines.
type bar struct {
	*console
	total int64 // bytes, 0 if unknown
	bytes int64
	lines int
	drawn time.Time
}

const (
	barWidth = 40
	barEvery = 50 * time.Millisecond
)

func (c *console) newBar(total int64) *bar { return &bar{console: c, total: total} }

// add counts one more line of size bytes.
func (b *bar) add(size int) {
	b.bytes += int64(size)
	b.lines++
	if now := time.Now(); now.Sub(b.drawn) >= barEvery {
		b.drawn = now
		b.show(b.text())
	}
}

func (b *bar) text() string {
	if b.total == 0 {
		return fmt.Sprintf("%d lines", b.lines)
	}
	done := min(float64(b.bytes)/float64(b.total), 1)
	full := int(done * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%, %d lines", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*done, b.lines)
}
