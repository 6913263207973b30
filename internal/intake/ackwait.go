package intake

import "time"

// Whoever lowers the AckWait of a durable announces it first, in the metadata of the durable.
// The processes that hold messages read that when they ask how far they are behind, and send
// in-progress signals for the new AckWait from then on. After AckWaitNotice the durable is
// changed. A process that has not read it by then cannot reach the server, so it sends no
// signals either.

// AnnouncedAckWait is the metadata of a durable with the AckWait that is to come.
const AnnouncedAckWait = "_omnibus.ack_wait"

// AckWaitNotice is the time in which every process that holds messages, and can reach the
// server, reads what is announced.
const AckWaitNotice = 2*lagInterval + heartbeat

// minAckWait is the shortest AckWait that signals keep up with.
const minAckWait = time.Second

// EffectiveAckWait is the AckWait that signals must keep up with: that of a durable, or a
// shorter one that its metadata announces.
func EffectiveAckWait(ackWait time.Duration, metadata map[string]string) time.Duration {
	if coming, err := time.ParseDuration(metadata[AnnouncedAckWait]); err == nil {
		ackWait = min(ackWait, coming)
	}
	return max(ackWait, minAckWait)
}

// followAckWaitLocked follows the AckWait of the durable as the server says it is.
func (p *puller) followAckWaitLocked(i *consumerInfo) {
	if p.index == 0 && i.Config.AckWait > 0 {
		p.d.ackWait = EffectiveAckWait(i.Config.AckWait, i.Config.Metadata)
	}
}

// AckWait is that of the durable, as far as known, or a shorter one that is to come.
func (d *Durable) AckWait() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ackWait
}
