package intake

// Reconnected does what follows a reconnect.
func (d *Durable) Reconnected() { d.reconnected() }
