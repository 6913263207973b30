package outlet

import "time"

// SetLongestTry has one try take up to d.
func (o *Outlet) SetLongestTry(d time.Duration) { o.longestTry = d }
