package bus

// load returns the statistics, and why no messages come where that is so.
func (c *Consumer) load() load {
	l := c.receiver.load(c.stats())
	in, _ := c.now()
	l.stalled = in.Stalled()
	return l
}
