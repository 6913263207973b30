package ownership

// Kill ends m as the death of its process would: nobody is told, nothing is settled.
// What its handlers do meanwhile is theirs.
func (m *Member) Kill() {
	m.stop()
	<-m.ended
	if lead := m.owning(); lead != nil {
		lead.abandon()
	}
	m.hands.leave()
	m.hands.queue.Stop()
	m.unsubscribe()
}

// JobOut is a message on its way to a member.
var JobOut = jobOut
