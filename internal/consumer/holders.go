package consumer

import "sync"

// Holders are the consumers of one bus that take their durable with keys and do not share it.
// There may be one for each durable: two of them would wait for each other's messages. The
// zero value is empty. Safe for concurrent use.
type Holders struct {
	all      sync.Map // durableName → *Consumer
	restarts sync.Map // durableName → *restart; of all durables that the bus has consumed
}

// durableName names a durable of a server.
type durableName struct{ stream, durable string }

// hold makes c the holder of its durable. It returns ErrKeysHeld if there is one that has not
// ended.
func (h *Holders) hold(c *Consumer) error {
	name := c.name()
	for {
		other, taken := h.all.LoadOrStore(name, c)
		if !taken {
			return nil
		}
		if other.(*Consumer).life.Err() == nil {
			return ErrKeysHeld
		}
		if h.all.CompareAndSwap(name, other, c) {
			return nil
		}
	}
}

// release ends hold. It does nothing for a consumer that is no holder.
func (h *Holders) release(c *Consumer) { h.all.CompareAndDelete(c.name(), c) }

// restartOf returns what happened to a durable since the server started.
func (h *Holders) restartOf(name durableName) *restart {
	r, _ := h.restarts.LoadOrStore(name, new(restart))
	return r.(*restart)
}

func (c *Consumer) name() durableName { return durableName{c.cfg.Stream.Name, c.cfg.Durable} }
