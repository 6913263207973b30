package subject

// Forget forgets the patterns that were filled, which the tests of a process share.
func Forget() { seen.now.Store(nil) }
