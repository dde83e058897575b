package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// validator checks what a configuration means, once it is decoded, and collects the faults.
type validator struct {
	*Config
	// undecoded are the keys whose values are faulty in form: nothing more can be said about them.
	undecoded map[string]bool
	faults    Faults
}

func newValidator(c *Config, decoding Faults) *validator {
	v := &validator{Config: c, undecoded: map[string]bool{}}
	for _, f := range decoding {
		v.undecoded[f.Path] = f.Path != ""
	}
	return v
}

func (v *validator) fault(path, format string, args ...any) {
	for around := path; around != ""; around = parent(around) {
		if v.undecoded[around] {
			return
		}
	}
	file, line := v.Locate(path)
	v.faults = append(v.faults, Fault{File: file, Line: line, Path: path, Problem: fmt.Sprintf(format, args...)})
}

// derive fills in the defaults that depend on other values.
func (v *validator) derive() {
	admin := &v.Listeners.Admin
	if _, written := v.origins["listeners.admin.socket"]; admin.Address != "" && !written {
		admin.Socket = ""
	}
	for n := range v.Issuers {
		v.Issuers[n].derive(func(key string) bool {
			_, written := v.origins[index("issuers", n)+"."+key]
			return written
		})
	}
	v.Vault.Auth.derive()
	if v.Issuer.URL != "" {
		return
	}
	host, port, err := net.SplitHostPort(v.Listeners.HTTP.Address)
	if err != nil {
		return // which is a fault
	}
	if v.needsIssuer() && (!isLoopback(host) || port == "0") {
		v.fault("issuer.url", "it is required where an exchanger needs it and listeners.http.address isn't a port on loopback")
	}
	if !isLoopback(host) {
		host = "127.0.0.1" // nobody trusts it
	}
	scheme := "http"
	if v.Listeners.HTTP.TLS.Enabled() {
		scheme = "https"
	}
	v.Issuer.URL = scheme + "://" + net.JoinHostPort(host, port)
}

func (v *validator) all() {
	v.redis()
	v.vault()
	if v.Issuer.URL != "" {
		v.url("issuer.url", v.Issuer.URL, v.Issuer.InsecurePlaintext, noSlash)
	}
	v.duration("issuer.key_rotation", v.Issuer.KeyRotation, 10*time.Minute, 720*time.Hour)
	v.transit("issuer.transit", v.Issuer.Transit)
	if _, written := v.origins["issuer.key_rotation"]; written && v.Issuer.Transit.Enabled() {
		v.fault("issuer.key_rotation", "Vault rotates the key of issuer.transit (auto_rotate_period); expected one or the other")
	}
	v.listeners()
	v.issuers()
	v.aws()
	v.x509()
	v.gatewayKeys()
	v.exchangers()
	v.sdk()
	within(v, "cache.max_bytes", v.Cache.MaxBytes, 1<<20, 16<<30)
	v.required("audit.path", v.Audit.Path)
	within(v, "limits.max_in_flight", v.Limits.MaxInFlight, 1, 1<<16)
	within(v, "limits.max_mints", v.Limits.MaxMints, 1, 100_000)
	within(v, "limits.max_unshared_mints", v.Limits.MaxUnsharedMints, 1, 1024)
	v.duration("limits.request_timeout", v.Limits.RequestTimeout, 100*time.Millisecond, time.Minute)
	v.duration("shutdown.drain", v.Shutdown.Drain, 0, time.Minute)
	v.duration("shutdown.deadline", v.Shutdown.Deadline, time.Second, 10*time.Minute)
}

var (
	entryName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`) // of roles, issuers and exchangers
	hostName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

func (v *validator) name(path, name string) {
	if name == "" {
		v.required(path, name)
	} else if !entryName.MatchString(name) {
		v.fault(path, "%.64q; expected a name that matches %s", name, entryName)
	}
}

// unique checks that value isn't among seen, and puts it there. An empty value is somebody else's fault.
func (v *validator) unique(path, value string, seen map[string]string) {
	if first, taken := seen[value]; taken && (value != "" || strings.HasSuffix(path, "]")) {
		v.fault(path, "%.64q stands at %s already; expected each once", value, first)
		return
	}
	seen[value] = path
}

func (v *validator) required(path, text string) {
	if text == "" {
		v.fault(path, "it is required")
	}
}

// text checks an opaque value: 1 to 255 bytes, none of which is a control character.
func (v *validator) text(path, text string) {
	v.required(path, text)
	if len(text) > 255 || strings.ContainsFunc(text, unicode.IsControl) {
		v.fault(path, "%.64q; expected at most 255 bytes and no control characters", text)
	}
}

func (v *validator) texts(path string, texts []string, least, most int) {
	if !v.count(path, len(texts), least, most) {
		return
	}
	seen := map[string]string{}
	for n, t := range texts {
		v.text(index(path, n), t)
		v.unique(index(path, n), t, seen)
	}
}

// count reports whether there are neither too few nor too many entries to look at.
func (v *validator) count(path string, n, least, most int) bool {
	switch {
	case n < least:
		v.fault(path, "it has no entry; expected %d to %d", least, most)
	case n > most:
		v.fault(path, "it has %d entries; expected at most %d", n, most)
	}
	return n >= least && n <= most
}

func (v *validator) oneOf(path, value string, values ...string) {
	if !slices.Contains(values, value) {
		v.fault(path, "%.64q; expected %s", value, strings.Join(values, ", "))
	}
}

func (v *validator) duration(path string, d, least, most time.Duration) {
	if d < least || d > most {
		v.fault(path, "%s; expected %s to %s", short(d), short(least), short(most))
	}
}

// short writes 1h0m0s as 1h.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func within[T cmp.Ordered](v *validator, path string, n, least, most T) {
	if n < least || n > most {
		v.fault(path, "%v; expected %v to %v", n, least, most)
	}
}

// Forms of a URL's path.
type pathForm int

const (
	anyPath pathForm = iota
	noSlash          // not at the end: more is appended to it
	noPath
)

// url checks a URL that the broker connects to, or is known by: https, or http where that can't be overheard or is allowed.
func (v *validator) url(path, raw string, plaintext bool, form pathForm) {
	if raw == "" {
		v.required(path, raw)
		return
	}
	shown := fmt.Sprintf("%.128q", raw)
	if strings.Contains(raw, "@") {
		shown = "the URL" // there may be a password in it
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || !validHost(u.Hostname()) || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validPort(u.Port()) ||
		len(raw) > 2048 || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }):
		v.fault(path, "%s has another form; expected https://host:port", shown)
	case !strings.HasPrefix(raw, "https://") && !strings.HasPrefix(raw, "http://"):
		v.fault(path, "%s; expected a URL that begins with https://", shown)
	case u.User != nil:
		v.fault(path, "it holds a user name or password; expected a URL without")
	case strings.ContainsAny(raw, "?#"):
		v.fault(path, "%s; expected a URL without query and fragment", shown)
	case form == noPath && u.Path != "":
		v.fault(path, "%s; expected a URL without a path", shown)
	case form == noSlash && strings.HasSuffix(raw, "/"):
		v.fault(path, `%s; expected a URL without "/" at its end`, shown)
	case u.Scheme == "http" && !plaintext && !isLoopback(u.Hostname()):
		v.fault(path, "%s is plaintext beyond loopback; expected https, or insecure_plaintext: true", shown)
	}
}

// plaintextURL reports whether a URL that passed the check is http beyond loopback.
func plaintextURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Scheme == "http" && !isLoopback(u.Hostname())
}

func index(path string, n int) string { return fmt.Sprintf("%s[%d]", path, n) }
