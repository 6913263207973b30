//go:build !windows

package storedir_test

import "syscall"

func clearUmask() { syscall.Umask(0) }
