package link

import (
	"fmt"
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

// Redact replaces the credentials in a comma-separated list of URLs by xxxxx. The
// list need not be well-formed: a password may have any of the characters that
// separate things, and rather too much is taken out than too little.
func Redact(list string) string {
	var urls []string
	for part := range strings.SplitSeq(list, ",") {
		if n := len(urls); n > 0 && strings.Contains(part, "@") && !strings.Contains(part, "://") {
			urls[n-1] += "," + part // a comma in a password
			continue
		}
		urls = append(urls, part)
	}
	for i, u := range urls {
		at := strings.LastIndex(u, "@")
		if at < 0 {
			continue
		}
		scheme, _, found := strings.Cut(u, "://")
		if found && !strings.Contains(scheme, "@") {
			scheme += "://"
		} else {
			scheme = ""
		}
		urls[i] = scheme + "xxxxx" + u[at:]
	}
	return strings.Join(urls, ",")
}
