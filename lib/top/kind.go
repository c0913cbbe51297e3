package top

import (
	"errors"
	"fmt"
	"time"
)

// Kind is a class of failure, the same word in a Go error, in a socket's answer
// and in a shell's exit code (docs/contract.md, "Kinds and exit codes").
type Kind string

// The kinds. Only ever append.
const (
	Failed   Kind = "failed"
	Usage    Kind = "usage"
	Invalid  Kind = "invalid"
	NotFound Kind = "not-found"
	Denied   Kind = "denied"
	Offline  Kind = "offline"
	Busy     Kind = "busy"
	Timeout  Kind = "timeout"
)

// One sentinel for each kind. Rooms wrap them with %w; callers test them with
// errors.Is, on either side of a socket.
var (
	ErrFailed   error = sentinel(Failed)
	ErrUsage    error = sentinel(Usage)
	ErrInvalid  error = sentinel(Invalid)
	ErrNotFound error = sentinel(NotFound)
	ErrDenied   error = sentinel(Denied)
	ErrOffline  error = sentinel(Offline)
	ErrBusy     error = sentinel(Busy)
	ErrTimeout  error = sentinel(Timeout)
)

type sentinel Kind

func (s sentinel) Error() string { return string(s) }

// kinds gives each kind its sentinel, exit code and HTTP status (T3).
var kinds = []struct {
	kind         Kind
	err          error
	exit, status int
}{
	{Failed, ErrFailed, 1, 500},
	{Usage, ErrUsage, 2, 400},
	{Invalid, ErrInvalid, 2, 400},
	{NotFound, ErrNotFound, 3, 404},
	{Denied, ErrDenied, 4, 403},
	{Offline, ErrOffline, 5, 503},
	{Busy, ErrBusy, 6, 409},
	{Timeout, ErrTimeout, 124, 504},
}

// Kinds lists every kind in the order of their exit codes.
func Kinds() []Kind {
	all := make([]Kind, len(kinds))
	for i, k := range kinds {
		all[i] = k.kind
	}
	return all
}

// KindOf is the kind that err wraps: "" for nil, Failed when it wraps none.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return Failed
}

// Err is the sentinel of the kind; an unknown kind is a failure.
func (k Kind) Err() error {
	for _, e := range kinds {
		if e.kind == k {
			return e.err
		}
	}
	return ErrFailed
}

// Exit is the exit code of the kind; "" is 0.
func (k Kind) Exit() int {
	if k == "" {
		return 0
	}
	for _, e := range kinds {
		if e.kind == k {
			return e.exit
		}
	}
	return 1
}

// Status is the HTTP status of the kind; "" is 200.
func (k Kind) Status() int {
	if k == "" {
		return 200
	}
	for _, e := range kinds {
		if e.kind == k {
			return e.status
		}
	}
	return 500
}

// An Error is a message of one kind, as it crosses a socket. RetryAfter says
// when the same call may go through; 0 says nothing.
type Error struct {
	Kind       Kind
	Message    string
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// Unwrap is the sentinel of the kind, so that errors.Is works on both sides.
func (e *Error) Unwrap() error { return e.Kind.Err() }

// Errorf makes an Error of a kind whose message does not repeat the kind's
// name. Use it where the message goes to a person as it is; use %w with a
// sentinel elsewhere.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// RetryAfter is how long err asks the caller to wait; 0 when it does not say.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}
