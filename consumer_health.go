package bus

// load returns the statistics, and why no messages come, or no dead letters can be
// written, where that is so.
func (c *Consumer) load() load {
	l := c.receiver.load(c.stats())
	in, _ := c.now()
	l.stalled = in.Stalled()
	if err := c.unburied.Load(); err != nil {
		l.unburied = *err
	}
	return l
}
