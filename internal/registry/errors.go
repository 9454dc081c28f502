package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/refusal"
	"github.com/anyarch/anyarch/internal/store"
)

const (
	maxErrorBody   = 64 << 10
	maxMessage     = 300 // characters of a registry's words that are shown
	codeNameAbsent = "NAME_UNKNOWN"
)

// failure is an exchange that didn't bring what was wanted: no answer, or one
// with an error status.
type failure struct {
	host          string
	status        int    // 0 if there was no answer
	code, message string // of the registry's error body
	err           error  // if there was no answer
	dial          bool   // there wasn't even a connection
	retryAfter    time.Duration
	hasRetryAfter bool
	rangeHeader   string // where an upload stands, if the answer says
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.err.Error()
	}
	text := fmt.Sprintf("%s answers %d %s", f.host, f.status, http.StatusText(f.status))
	if f.code != "" || f.message != "" {
		text += " (" + strings.TrimSpace(f.code+" "+f.message) + ")"
	}
	return text
}

func (f *failure) Unwrap() error { return f.err }

// statusError is the cause of a refusal that a registry's status made.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("%d %s", int(e), http.StatusText(int(e))) }

func (e statusError) Is(target error) bool {
	return target == store.ErrNotFound && int(e) == http.StatusNotFound
}

// statusOf is the status that made a refusal, 0 if none did.
func statusOf(err error) int {
	e, _ := errors.AsType[statusError](err)
	return int(e)
}

// temporary reports whether trying again may help.
func (f *failure) temporary() bool {
	if f.status != 0 {
		return temporary(f.status)
	}
	if speaksPlain(f.err) || f.err == errPlain || f.err == errPlainOnly || isCertificate(f.err) {
		return false
	}
	if _, ok := errors.AsType[*policyError](f.err); ok {
		return false
	}
	_, guarded := errors.AsType[*guardError](f.err)
	return !guarded
}

func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return status >= 520 && status < 530 // content delivery networks
}

func isCertificate(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	_, ok := errors.AsType[x509.HostnameError](err)
	return ok
}

// speaksPlain reports whether TLS failed because the server speaks plain HTTP.
func speaksPlain(err error) bool {
	if err == nil {
		return false
	}
	if re, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return string(re.RecordHeader[:]) == "HTTP/"
	}
	return strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// failed reads an error answer, closes it, and shuts the host's gate if it asks
// for that.
func (h *host) failed(resp *http.Response) *failure {
	f := &failure{host: h.addr, status: resp.StatusCode, rangeHeader: resp.Header.Get("Range")}
	if resp.Request != nil && resp.Request.URL != nil {
		f.host = resp.Request.URL.Host
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body.Close()
	// distribution-spec v1.1.1, "Error Codes".
	var said struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &said) == nil && len(said.Errors) > 0 {
		f.code, f.message = clean(said.Errors[0].Code), clean(said.Errors[0].Message)
	} else if text := strings.TrimSpace(string(body)); text != "" && !strings.HasPrefix(text, "<") {
		f.message = clean(text)
	}
	if d, ok := retryAfter(resp.Header, h.client.clock.now()); ok && temporary(f.status) {
		f.retryAfter, f.hasRetryAfter = d, true
		if d <= maxRetryAfter {
			h.client.gate(f.host).shut(h.client.clock.now().Add(d))
		}
	}
	return f
}

// clean makes one short line of a stranger's words.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxMessage {
		s = string(runes[:maxMessage]) + "…"
	}
	return strings.TrimSpace(s)
}

// refuse makes an error for users of one that ended a purpose. tries is how
// often it was attempted.
func (h *host) refuse(err error, step string, tries int) error {
	f, ok := err.(*failure)
	if !ok {
		return err
	}
	scheme := "https"
	if c := h.contact.Load(); c != nil {
		scheme = c.scheme
	}
	e := &refusal.Error{Kind: refusal.Unavailable, Place: h.name, Err: f.err, Seen: []string{"while it was asked to " + step}}
	times := "once"
	if tries > 1 {
		times = fmt.Sprintf("%d times", tries)
	}
	look := []string{"curl -v " + scheme + "://" + h.addr + "/v2/"}
	guard, guarded := errors.AsType[*guardError](f.err)
	policy, political := errors.AsType[*policyError](f.err)
	switch {
	case f.status == http.StatusTooManyRequests:
		e.Code, e.Summary = "PA405", f.host+" takes no more requests for now (429)"
		e.Seen = append(e.Seen, "it was asked "+times)
		e.Fix = []string{"wait some minutes and run the command again"}
		if f.hasRetryAfter {
			at := h.client.clock.now().Add(f.retryAfter).UTC().Format(time.RFC3339)
			e.Seen = append(e.Seen, fmt.Sprintf("it says to try again in %v, at %s", f.retryAfter.Round(time.Second), at))
			e.Fix = []string{"run the command again after " + at}
		}
		if h.name == dockerHub {
			e.Fix = append(e.Fix, "anyarch login docker.io   (gives a higher limit)")
		}
	case f.status != 0 && temporary(f.status):
		e.Code, e.Summary = "PA404", fmt.Sprintf("%s answers %d %s", f.host, f.status, http.StatusText(f.status))
		e.Seen = append(e.Seen, "it was asked "+times)
		if f.hasRetryAfter {
			e.Seen = append(e.Seen, "it says to try again in "+f.retryAfter.Round(time.Second).String())
		}
		e.Fix = look
	case f.status != 0:
		return h.denied(f, step, "", "")
	case speaksPlain(f.err) || f.err == errPlain:
		e.Code, e.Kind = "PA409", refusal.Usage
		e.Summary = h.addr + " speaks plain HTTP, which is only spoken to hosts that are named for it"
		e.Fix = []string{"--plain-http " + h.addr}
	case isCertificate(f.err):
		e.Code, e.Summary = "PA404", "the TLS certificate of "+f.host+" isn't valid here"
		e.Seen = append(e.Seen, clean(f.err.Error()))
		e.Fix = []string{"SSL_CERT_FILE=/path/to/ca.pem anyarch …"}
	case guarded:
		e.Code, e.Kind = "PA406", refusal.Failed
		e.Summary = h.name + " leads to " + guard.address + ", an address inside a network, and isn't there itself"
		e.Fix = []string{"ask who runs " + h.name + " why it does so"}
	case political:
		e.Code, e.Kind, e.Summary = "PA406", refusal.Failed, h.name+" doesn't answer as a registry does"
		e.Seen = append(e.Seen, policy.reason)
		e.Fix = look
	default:
		e.Code, e.Summary = "PA404", f.host+" can't be reached"
		if errors.Is(f.err, errIdle) {
			e.Summary = f.host + " went silent"
		} else if !f.dial {
			e.Summary = "the connection to " + f.host + " breaks"
		}
		if dns, ok := errors.AsType[*net.DNSError](f.err); ok && dns.IsNotFound {
			e.Summary = "there is no host " + dns.Name
		}
		e.Seen = append(e.Seen, "tried "+times+"; last: "+clean(f.err.Error()))
		e.Fix = look
	}
	for i := range e.Seen {
		e.Seen[i] = h.scrub(e.Seen[i])
	}
	if f.message != "" || f.code != "" {
		e.Seen = append(e.Seen, h.scrub("it says: "+strings.TrimSpace(f.code+" "+f.message)))
	}
	return e
}

// answered makes an error of an answer that isn't the wanted one, and closes it.
// place is what was asked for.
func (h *host) answer(ctx context.Context, resp *http.Response, q *request, place string) error {
	f := h.failed(resp)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return h.denied(f, q.step, q.scopes, place)
}

// denied makes an error of a status that trying again won't change.
func (h *host) denied(f *failure, step, scopes, place string) error {
	if place == "" {
		place = h.name
	}
	e := &refusal.Error{Kind: refusal.Failed, Place: place, Err: statusError(f.status), Seen: []string{"while it was asked to " + step}}
	switch {
	case f.status == http.StatusUnauthorized:
		cred := h.client.keychain.find(context.Background(), h.name, scopePath(scopes))
		return h.unauthorized(f, cred, step, false, "")
	case f.status == http.StatusForbidden:
		cred := h.client.keychain.find(context.Background(), h.name, scopePath(scopes))
		e.Code, e.Kind = "PA402", refusal.Auth
		e.Summary = fmt.Sprintf("%s denies access to %s (403, %s)", f.host, scopePath(scopes), cred.who())
		if cred.place != "" {
			e.Seen = append(e.Seen, "credentials: "+cred.place)
		}
		if scopes != "" {
			e.Seen = append(e.Seen, "scope asked for: "+scopes)
		}
		if cred.githubActions {
			e.Fix = append(e.Fix, "permissions: {packages: write}   (in the job's YAML)")
		}
		e.Fix = append(e.Fix, "anyarch login "+h.name)
	case f.status == http.StatusNotFound && f.code == codeNameAbsent:
		e.Code = "PA403"
		e.Summary = "the repository doesn't exist (NAME_UNKNOWN)"
		if region, ok := ecrRegion(h.name); ok {
			e.Fix = []string{"aws ecr create-repository --region " + region + " --repository-name " + scopePath(scopes)}
			e.Seen = append(e.Seen, "ECR doesn't make repositories when something is pushed")
		}
	case f.status == http.StatusNotFound:
		e.Code, e.Summary = "PA403", "the registry doesn't have it (404)"
	default:
		e.Code = "PA406"
		e.Summary = fmt.Sprintf("%s refuses: %d %s", f.host, f.status, http.StatusText(f.status))
	}
	if f.message != "" || f.code != "" {
		e.Seen = append(e.Seen, h.scrub("it says: "+strings.TrimSpace(f.code+" "+f.message)))
	}
	return e
}

// unauthorized says whose credentials weren't good enough. withheld says that
// they weren't shown to realm, which isn't of the registry's domain.
func (h *host) unauthorized(f *failure, cred credential, step string, withheld bool, realm string) error {
	e := &refusal.Error{Code: "PA401", Kind: refusal.Auth, Place: h.name, Seen: []string{"while it was asked to " + step}}
	switch {
	case cred.anonymous():
		e.Summary = h.name + " wants credentials, and there are none"
		e.Seen = append(e.Seen, "looked in "+strings.Join(h.client.keychain.places(), ", "))
	case withheld:
		e.Summary = h.name + " wants its credentials sent to " + realm + ", which isn't of its domain"
		e.Seen = append(e.Seen, "they were not sent; credentials: "+cred.place)
		e.Fix = []string{"--trust-realm " + realm + "   (if you know that it belongs to " + h.name + ")"}
	default:
		e.Summary = fmt.Sprintf("%s doesn't accept the credentials (%s)", h.name, cred.who())
		e.Seen = append(e.Seen, "credentials: "+cred.place)
	}
	e.Seen = append(e.Seen, cred.notes...)
	if f.message != "" || f.code != "" {
		e.Seen = append(e.Seen, h.scrub("it says: "+strings.TrimSpace(f.code+" "+f.message)))
	}
	if region, ok := ecrRegion(h.name); ok {
		e.Fix = append(e.Fix, "aws ecr get-login-password --region "+region+" | anyarch login "+h.name+" --username AWS --password-stdin")
	} else if !withheld {
		e.Fix = append(e.Fix, "anyarch login "+h.name)
	}
	return e
}

// ecrRegion gives the region of a registry of Amazon ECR.
func ecrRegion(host string) (string, bool) {
	labels := strings.Split(host, ".")
	if len(labels) < 6 || labels[1] != "dkr" || !strings.HasPrefix(labels[2], "ecr") || labels[4] != "amazonaws" {
		return "", false
	}
	return labels[3], true
}

// scrub removes the host's secrets from words that came over the wire.
func (h *host) scrub(s string) string {
	secrets := h.client.keychain.secrets()
	h.tokens.Range(func(_, t any) bool {
		if _, secret, ok := strings.Cut(t.(*token).header, " "); ok {
			secrets = append(secrets, secret)
		}
		return true
	})
	for _, secret := range secrets {
		if len(secret) >= 4 {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}

func basicSecret(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// integrity says that a registry gave other bytes than asked for.
func integrity(name string, d digest.Digest, seen string) error {
	return &refusal.Error{
		Code: "PA408", Place: name + "@" + d.String(), Summary: "content differs from its digest", Seen: []string{seen},
		Fix: []string{"run the command again; if it stays so, the registry or a proxy before it is damaged"},
	}
}

func isAuth(err error) bool {
	e, ok := errors.AsType[*refusal.Error](err)
	return ok && e.Kind == refusal.Auth
}
