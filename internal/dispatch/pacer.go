package dispatch

import "time"

// pacer lets messages begin one by one with a time in between. The zero value lets
// them begin at once. Guarded by the queue's mu.
type pacer struct {
	interval time.Duration // between the beginnings of two messages
	next     time.Time     // when the next one may begin
}

// Pace lets messages that were pushed begin one by one with so much time in between.
// To be called before there are any.
func (q *Queue) Pace(interval time.Duration) { q.needAdmission().pacer.interval = interval }

// began records that so many messages begin now.
func (p *pacer) began(now time.Time, messages int) {
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(messages) * p.interval)
}
