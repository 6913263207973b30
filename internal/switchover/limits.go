package switchover

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// accountLimits are the limits of an account, of which nats.go knows only some. Less than zero
// means none.
type accountLimits struct {
	MaxMemory        int64 `json:"max_memory"`
	MaxStore         int64 `json:"max_storage"`
	MaxStreams       int64 `json:"max_streams"`
	MaxConsumers     int64 `json:"max_consumers"`
	MaxAckPending    int64 `json:"max_ack_pending"` // of a consumer; here zero means none, too
	MaxMemoryStream  int64 `json:"memory_max_stream_bytes"`
	MaxStoreStream   int64 `json:"storage_max_stream_bytes"`
	MaxBytesRequired bool  `json:"max_bytes_required"`
}

// accountTier is what an account uses and may use: in all, or of streams with so many replicas.
type accountTier struct {
	Memory    int64         `json:"memory"`
	Store     int64         `json:"storage"`
	Streams   int64         `json:"streams"`
	Consumers int64         `json:"consumers"`
	Limits    accountLimits `json:"limits"`
}

// account asks for the account of the target. copies is how often a byte counts.
func (s *run) account(ctx context.Context, replicas int64) (tier accountTier, copies int64, err error) {
	ctx, end := s.question(ctx)
	defer end()
	msg, err := s.Target.RequestWithContext(ctx, "$JS.API.INFO", nil)
	if err != nil {
		return accountTier{}, 0, because(ctx, err)
	}
	var r struct {
		Error *jetstream.APIError `json:"error"`
		accountTier
		Tiers map[string]accountTier `json:"tiers"`
	}
	if err := json.Unmarshal(msg.Data, &r); err != nil {
		return accountTier{}, 0, fmt.Errorf("the reply of the server cannot be read: %w", err)
	}
	if r.Error != nil {
		return accountTier{}, 0, r.Error
	}
	if t, ok := r.Tiers[fmt.Sprintf("R%d", replicas)]; ok {
		return t, 1, nil // the limits of a tier are those of one replica
	}
	return r.accountTier, replicas, nil
}

// checkLimits compares what the streams need with the limits of the account, and with the room
// that the target has.
func (s *run) checkLimits(ctx context.Context) {
	tier, copies, err := s.account(ctx, int64(s.report.Replicas))
	if err != nil {
		s.failedAt("the limits of the target cannot be asked for", err, silentRemedy)
		return
	}
	var store, memory, count int64
	for _, info := range s.infos {
		count += int64(info.State.Consumers)
		need := max(int64(info.State.Bytes), info.Config.MaxBytes) // MaxBytes is reserved
		if info.Config.Storage == jetstream.MemoryStorage {
			memory += need
		} else {
			store += need
		}
		s.checkStreamLimits(ctx, info, &tier.Limits)
	}
	if s.checkLimit("bytes on disk", store*copies, tier.Limits.MaxStore, tier.Store) {
		s.checkRoom(ctx, jetstream.FileStorage, largest(store, tier.Limits.MaxStoreStream), "on disk", "max_file_store")
	}
	if s.checkLimit("bytes in memory", memory*copies, tier.Limits.MaxMemory, tier.Memory) {
		s.checkRoom(ctx, jetstream.MemoryStorage, largest(memory, tier.Limits.MaxMemoryStream), "in memory", "max_memory_store")
	}
	s.checkLimit("streams", int64(len(s.infos)+len(s.NewStreams)), tier.Limits.MaxStreams, tier.Streams)
	s.checkLimit("consumers", count, tier.Limits.MaxConsumers, tier.Consumers)
}

// largest is how much of a need one stream may have. A limit of zero or less means none.
func largest(need, limit int64) int64 {
	if limit > 0 {
		return min(need, limit)
	}
	return need
}

// checkLimit compares a need with a limit of the account, of which some is used. It reports
// whether the limit is high enough.
func (s *run) checkLimit(what string, need, limit, used int64) bool {
	fits := limit < 0 || need <= limit-used
	if !fits {
		s.found("", fmt.Sprintf("the account may have %d %s and has %d; the streams need %d more", limit, what, used, need), s.remedy("raise that limit at the target", "raise WithMaxStore or WithMaxMemory"))
	}
	return fits
}

// checkRoom has the target reserve as many bytes as all streams need, for a moment.
func (s *run) checkRoom(ctx context.Context, storage jetstream.StorageType, need int64, where, setting string) {
	if need == 0 {
		return
	}
	probe := jetstream.StreamConfig{Name: roomProbe + s.ID, Subjects: []string{"$OMNIBUS.room." + s.ID}, Storage: storage, Replicas: s.report.Replicas, MaxBytes: need}
	if err := s.createProbe(ctx, probe); err != nil {
		s.failedAt(fmt.Sprintf("the target does not reserve the %d bytes %s that the streams need", need, where), err,
			s.remedy(fmt.Sprintf("make room there, or raise its %s", setting), "make room on the disk, or raise WithMaxStore or WithMaxMemory"))
		return
	}
	s.deleteProbe(ctx, probe.Name)
}

// checkStreamLimits compares a stream and its consumers with what the account allows each.
func (s *run) checkStreamLimits(ctx context.Context, info *jetstream.StreamInfo, l *accountLimits) {
	c := &info.Config
	most := l.MaxStoreStream
	if c.Storage == jetstream.MemoryStorage {
		most = l.MaxMemoryStream
	}
	if l.MaxBytesRequired && c.MaxBytes <= 0 {
		s.found(c.Name, "the account requires MaxBytes, which it does not have", "set its MaxBytes, or lift that rule at the target")
	}
	if most > 0 && c.MaxBytes > most {
		s.found(c.Name, fmt.Sprintf("its MaxBytes are %d, and the account allows %d for a stream", c.MaxBytes, most), "raise that limit at the target, or lower its MaxBytes")
	}
	if l.MaxAckPending <= 0 || info.State.Consumers == 0 {
		return
	}
	for _, d := range s.consumersHere(ctx, c.Name) {
		if n := int64(d.Config.MaxAckPending); n > l.MaxAckPending {
			s.found(c.Name, fmt.Sprintf("consumer %q may have %d unacknowledged messages, and the account allows %d", d.Name, n, l.MaxAckPending),
				"raise that limit at the target, or lower MaxAckPending of the consumer")
		}
	}
}
