package outlet

import "time"

// SetLongestTry has one try take up to d.
func (o *Outlet) SetAttemptTimeout(d time.Duration) { o.attemptTimeout = d }
