package ownership

import "strconv"

// The first tokens of the subjects. "keys" is also the end of the stream's name.
const (
	storedPrefix  = "$OMNIBUS.keys."
	messagePrefix = "$OMNIBUS.crew."
)

// StreamOf returns the name of the stream that keeps the leases of the durables of stream.
func StreamOf(stream string) string { return stream + "-keys" }

// SubjectsOf returns the pattern of all subjects that this stream stores.
func SubjectsOf(stream string) string { return storedPrefix + stream + ".>" }

// subjects makes the subjects that belong to one durable.
type subjects struct{ stream, durable string }

// Stored in the stream StreamOf returns.
func (s subjects) lease() string        { return s.stored("claim") }
func (s subjects) settleRecord() string { return s.stored("settled") }

// Not stored: between the members.
func (s subjects) owner(epoch uint64) string {
	return s.message("lead." + strconv.FormatUint(epoch, 10))
}
func (s subjects) assignments(member string) string { return s.message("run." + member) }
func (s subjects) leaseChanged() string             { return s.message("news") }

func (s subjects) stored(last string) string {
	return storedPrefix + s.stream + "." + s.durable + "." + last
}

func (s subjects) message(last string) string {
	return messagePrefix + s.stream + "." + s.durable + "." + last
}
