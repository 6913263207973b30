package link

import (
	"fmt"
	"regexp"
	"strings"
)

// URL is the address of the server the link is connected to, without
// credentials, or empty while it is connected to none or to the embedded one.
func (l *Link) URL() string {
	scheme, rest, found := strings.Cut(l.nc.ConnectedUrl(), "://")
	if !found {
		scheme, rest = "nats", scheme
	}
	if rest = rest[strings.LastIndex(rest, "@")+1:]; rest == "" || rest == embeddedAddr {
		return ""
	}
	return scheme + "://" + rest
}

// Describe names the server the link is connected to, or is empty while it is
// connected to none.
func (l *Link) Describe() string {
	where, name := l.URL(), l.nc.ConnectedServerName()
	if l.nc.ConnectedUrl() == EmbeddedURL {
		where = "embedded"
	}
	if where == "" || name == "" {
		return ""
	}
	return fmt.Sprintf("%s (%s)", where, name)
}

// Clustered reports whether the connected server has the name of a cluster. A single server
// with leaf nodes has one, too.
func (l *Link) Clustered() bool { return l.nc.ConnectedClusterName() != "" }

// Redact replaces the credentials in a comma-separated list of URLs by xxxxx. The
// list need not be well-formed: a password may have any of the characters that
// separate things, and rather too much is taken out than too little. What is left
// of a URL is a scheme and what looks like a host with a port.
func Redact(list string) string {
	var urls []string
	for part := range strings.SplitSeq(list, ",") {
		if strings.Contains(part, "@") && !begins.MatchString(part) {
			part = joinPassword(&urls, part)
		}
		urls = append(urls, part)
	}
	plain := !strings.Contains(list, "@")
	for i, u := range urls {
		urls[i] = redactOne(u, plain)
	}
	return strings.Join(urls, ",")
}

// joinPassword takes from urls what may be the beginning of a password with commas that
// ends in part: all after the latest scheme. It returns it with part.
func joinPassword(urls *[]string, part string) string {
	first := len(*urls)
	for first > 0 {
		first--
		if begins.MatchString((*urls)[first]) {
			break
		}
	}
	part = strings.Join(append((*urls)[first:], part), ",")
	*urls = (*urls)[:first]
	return part
}

// begins matches the beginning of a URL with a scheme that the library knows.
var begins = regexp.MustCompile(`^\s*(nats|nats-leaf|tls|ws|wss)://`)

// hostPort matches what may be shown of a URL: a host and a port.
var hostPort = regexp.MustCompile(`^(\[[0-9A-Fa-f:.%]*\]|[A-Za-z0-9._-]*)(:[0-9]{0,5})?/?$`)

// anyScheme and path match what may also be shown where no URL of the list has credentials.
var (
	anyScheme = regexp.MustCompile(`^\s*[a-z][a-z0-9+-]*://`)
	path      = regexp.MustCompile(`/[A-Za-z0-9._/-]*\s*$`)
)

// redactOne redacts one URL. plain says that no URL of the list has credentials.
func redactOne(u string, plain bool) string {
	scheme := begins.FindString(u)
	if plain {
		scheme = anyScheme.FindString(u)
	}
	rest := u[len(scheme):]
	at := strings.LastIndex(rest, "@")
	if plain {
		rest = path.ReplaceAllString(rest, "")
	}
	if at < 0 && strings.HasPrefix(strings.TrimSpace(scheme), "ws") {
		rest, _, _ = strings.Cut(rest, "/") // a WebSocket may have a path
	}
	switch host := rest[at+1:]; {
	case !hostPort.MatchString(strings.TrimSpace(host)):
		return scheme + "xxxxx"
	case at >= 0:
		return scheme + "xxxxx@" + host
	}
	return u
}
