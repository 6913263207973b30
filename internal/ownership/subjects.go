package ownership

import (
	"strconv"

	"github.com/omnibus-go/bus/internal/permissions"
	"github.com/omnibus-go/bus/internal/sidestream"
)

const messagePrefix = permissions.Crew

// subjects makes the subjects that belong to one durable.
type subjects struct{ stream, durable string }

// Stored in sidestream.KeysStream.
func (s subjects) lease() string        { return s.stored("claim") }
func (s subjects) settleRecord() string { return s.stored("settled") }

// Not stored: between the members.
func (s subjects) owner(epoch uint64) string {
	return s.message("lead." + strconv.FormatUint(epoch, 10))
}
func (s subjects) assignments(member string) string { return s.message("run." + member) }
func (s subjects) leaseChanged() string             { return s.message("news") }

func (s subjects) stored(last string) string {
	return sidestream.Prefix(sidestream.Keys) + "." + s.stream + "." + s.durable + "." + last
}

func (s subjects) message(last string) string {
	return messagePrefix + s.stream + "." + s.durable + "." + last
}
