package subject

import (
	"fmt"
	"strings"
)

// Name returns the subject {domain}.{service}.{entity}.{action}.{version}, for example
// "shop.billing.invoice.created.v1".
//
// Each of the first four parts is one token of a-z, 0-9, "_" and "-", or "*" to match all. The
// version is "v1", "v2" and so on.
func Name(domain, service, entity, action, version string) (string, *Problem) {
	names := [...]string{"domain", "service", "entity", "action"}
	parts := [...]string{domain, service, entity, action}
	for i, part := range parts {
		if p := checkPart(names[i], part); p != nil {
			return "", p
		}
	}
	if p := checkVersion(version); p != nil {
		return "", p
	}
	name := strings.Join(append(parts[:], version), ".")
	if p := CheckPattern(name); p != nil {
		return "", p
	}
	return name, nil
}

// checkPart checks one of the first four parts. name is what the part is called.
func checkPart(name, part string) *Problem {
	switch {
	case part == anyToken:
		return nil
	case part == "":
		return &Problem{"has an empty " + name, "a name has five parts: domain.service.entity.action.version"}
	case !strings.ContainsFunc(part, isInvalidInPart):
		return nil
	}
	return &Problem{fmt.Sprintf("has the %s %q, which is not one lower-case token", name, clip(part)), partHint(name, part)}
}

// isInvalidInPart reports whether a part must not have r.
func isInvalidInPart(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

// partHint returns the hint for a bad part.
func partHint(name, part string) string {
	if lower := strings.ToLower(part); lower != part && !strings.ContainsFunc(lower, isInvalidInPart) {
		return fmt.Sprintf("write %q", clip(lower))
	}
	if strings.Contains(part, ".") {
		return "the " + name + " is one level: join words with \"-\" or \"_\" instead of a dot"
	}
	if strings.ContainsAny(part, "*>") {
		return "the only wildcard of a name is \"*\" as a whole part"
	}
	return "use a-z, 0-9, \"_\" and \"-\", or \"*\" for all"
}

// checkVersion checks the last part.
func checkVersion(version string) *Problem {
	digits, ok := strings.CutPrefix(version, "v")
	if ok && digits != "" && digits[0] != '0' && strings.Trim(digits, "0123456789") == "" {
		return nil
	}
	return &Problem{
		fmt.Sprintf("has the version %q", clip(version)),
		"write \"v1\", \"v2\" and so on: \"v\" and a whole number from 1",
	}
}
