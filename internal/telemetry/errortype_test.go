package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/omnibus-go/bus/internal/jserr"
	"github.com/omnibus-go/bus/internal/telemetry"
)

type conflictError struct{ cause error }

func (e *conflictError) Error() string { return "conflict" }
func (e *conflictError) Unwrap() error { return e.cause }

type valueError struct{}

func (valueError) Error() string { return "value" }

type namedError struct{ name string }

func (namedError) Error() string       { return "named" }
func (e namedError) ErrorType() string { return e.name }

func TestErrorType(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"text":              {errors.New("x"), "_OTHER"},
		"sentinel":          {io.EOF, "_OTHER"},
		"wrapped text":      {fmt.Errorf("a: %w", fmt.Errorf("b: %w", io.EOF)), "_OTHER"},
		"pointer":           {&conflictError{}, "telemetry_test.conflictError"},
		"value":             {valueError{}, "telemetry_test.valueError"},
		"wrapped type":      {fmt.Errorf("a: %w", &conflictError{}), "telemetry_test.conflictError"},
		"type around text":  {&conflictError{io.EOF}, "telemetry_test.conflictError"},
		"innermost type":    {&conflictError{fmt.Errorf("b: %w", valueError{})}, "telemetry_test.valueError"},
		"joined":            {errors.Join(io.EOF, &conflictError{}, valueError{}), "telemetry_test.conflictError"},
		"two wrapped":       {fmt.Errorf("%w, %w", io.EOF, valueError{}), "telemetry_test.valueError"},
		"operating system":  {&fs.PathError{Op: "open", Err: syscall.ENOENT}, "syscall.Errno"},
		"deadline":          {fmt.Errorf("a: %w", context.DeadlineExceeded), "timeout"},
		"deadline of os":    {&conflictError{os.ErrDeadlineExceeded}, "timeout"},
		"timeout of net":    {&net.DNSError{IsTimeout: true}, "timeout"},
		"no timeout of net": {&net.DNSError{}, "net.DNSError"},
		"canceled":          {&conflictError{context.Canceled}, "canceled"},
		"internal type":     {&jserr.Error{Err: io.EOF}, "_OTHER"},
		"around internal":   {&conflictError{&jserr.Error{Err: io.EOF}}, "telemetry_test.conflictError"},
		"refusal":           {&jserr.Error{Err: &jserr.Refusal{Number: jserr.ServerLimits}}, "bus.StreamError"},
		"wrong sequence":    {&jserr.Refusal{Number: jserr.WrongLastSequence}, "bus.ConflictError"},
		"own name":          {fmt.Errorf("a: %w", namedError{"stock_low"}), "stock_low"},
		"own name, empty":   {namedError{}, "telemetry_test.namedError"},
	} {
		t.Run(name, func(t *testing.T) {
			tel, r := tracing(t)
			_, s := tel.Send(bg, telemetry.Op{Template: "a"})
			s.End(c.err)
			if got := onlySpan(t, r).Attr("error.type"); got != c.want {
				t.Errorf("error.type %q, want %q", got, c.want)
			}
		})
	}
}
