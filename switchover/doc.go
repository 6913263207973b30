// Package switchover has what bus.Bus.SwitchTo takes and returns: its options, the progress
// it reports, its report and its errors.
//
// The options that say how the bus identifies itself to the new server are those of
// bus.Connect: bus.WithUser, bus.WithToken, bus.WithCredentials, bus.WithNKey and
// bus.WithTLS. They implement Option, too.
package switchover
