package bus

// load returns the statistics, and why no messages come where that is so.
func (c *Consumer) load() load {
	l := c.receiver.load(c.stats())
	l.stalled = c.in.Stalled()
	return l
}
