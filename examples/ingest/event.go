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
	size   int // bytes read, with the line's end
	text   []byte
	err    error // why reading ended here, if not at the end
}

// readLines sends the lines of in, however long they are, until ctx ends. Its
// goroutine may stay behind in a read that nobody can interrupt, as that of a
// terminal, so whoever closes in ends it for certain.
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

// events are all subjects of the stream: github.<event>.<action>. What is
// published there is the payload, byte for byte.
const events bus.Subject[json.RawMessage] = "github.*.*"

// noAction stands for an action that is null.
const noAction = "none"

// webhook is what this program reads of a payload.
type webhook struct {
	Repository struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
	Sender struct {
		Login string `json:"login"`
	} `json:"sender"`
}

// event is what a line becomes.
type event struct {
	subject bus.Subject[json.RawMessage]
	id      string
	payload json.RawMessage
}

// parse makes an event of a line. The subject is checked when it is published:
// At never lets a token that came from outside add a level or a wildcard.
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

// checkPayload makes sure that every consumer can read the payload. A message
// that a consumer cannot decode would come back to it again and again.
func checkPayload(payload json.RawMessage) error {
	if len(payload) == 0 || string(payload) == "null" {
		return errors.New("no payload")
	}
	if err := json.Unmarshal(payload, new(webhook)); err != nil {
		return fmt.Errorf("not a webhook's payload: %w", err)
	}
	return nil
}

// contentID names an event by what it says. So a line that is read twice is
// stored once, and so are two lines that are the same to the byte: real
// deliveries have identifiers of their own that tell those apart.
func contentID(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
