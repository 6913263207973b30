package access

import "context"

// IsPostponed reports whether err is, or wraps, what bus.Postpone returns.
var IsPostponed func(err error) bool

// InBatch reports whether ctx is the context of a message that is handled in a batch
// (bus.ConsumeBatch).
var InBatch func(ctx context.Context) bool

// IsPublic reports whether err is, or wraps, what bus.Public returns.
var IsPublic func(err error) bool
