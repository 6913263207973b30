package outlet

import "time"

// SetAttemptTimeout limits one attempt to d.
func (o *Outlet) SetAttemptTimeout(d time.Duration) { o.attemptTimeout = d }
