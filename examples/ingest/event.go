package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/omnibus-go/bus"
)

// line is one line of the input.
type line struct {
	number int // from 1
	size   int // bytes read, with the end of the line
	text   []byte
	err    error // why reading failed after this line
}

// readLines sends the lines of in, of any length, until ctx ends. Its goroutine may wait in a read that
// cannot be interrupted, for example of a terminal. Close in to end it.
func readLines(ctx context.Context, in io.Reader) <-chan line {
	lines := make(chan line)
	go func() {
		defer close(lines)
		r := bufio.NewReader(in)
		for n := 1; ; n++ {
			text, err := r.ReadBytes('\n')
			l := line{number: n, size: len(text), text: bytes.TrimSpace(text)}
			if err != nil && err != io.EOF {
				l.err = err
			}
			select {
			case lines <- l:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// events are all subjects of the stream: github.<event>.<action>. The messages have the payload of the
// event without any change.
const events bus.Subject[json.RawMessage] = "github.*.*"

// noAction is the token for an action that is null.
const noAction = "none"

// webhook has the fields of a payload that this program reads.
type webhook struct {
	Repository struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
	Sender struct {
		Login string `json:"login"`
	} `json:"sender"`
}

// event is the event of a line.
type event struct {
	subject bus.Subject[json.RawMessage]
	id      string
	payload json.RawMessage
}

// parse returns the event of a line. PublishTo checks the subject later. With At a token from outside cannot
// add a level or a wildcard.
func parse(text []byte) (event, error) {
	var in struct {
		Event   string          `json:"event"`
		Action  *string         `json:"action"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return event{}, fmt.Errorf("not an event in JSON: %w", err)
	}
	action := noAction
	if in.Action != nil {
		action = *in.Action
	}
	return event{events.At(in.Event, action), contentID(text), in.Payload}, checkPayload(in.Payload)
}

// checkPayload returns an error if a consumer cannot decode the payload. Such a message would be
// redelivered again and again.
func checkPayload(payload json.RawMessage) error {
	if len(payload) == 0 || string(payload) == "null" {
		return errors.New("no payload")
	}
	if err := json.Unmarshal(payload, new(webhook)); err != nil {
		return fmt.Errorf("not a webhook's payload: %w", err)
	}
	return nil
}

// contentID returns an ID that depends only on the text. So a line that is read twice is stored once. Two
// identical lines are stored once too. Real deliveries have IDs of their own, which differ.
func contentID(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
