package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// token is what the token server has given out.
type token struct {
	access map[string][]string // repository → actions
	uses   int                 // that are left; negative is any number
}

// ExpireTokens ends the life of all tokens.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// serveToken is distribution's token specification.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	user, password, given := r.BasicAuth()
	if r.Method == http.MethodPost {
		_ = r.ParseForm()
		if r.PostForm.Get("grant_type") != "refresh_token" {
			fail(w, http.StatusBadRequest, "UNSUPPORTED", "only refresh_token")
			return
		}
		user, password, given = s.config.User, r.PostForm.Get("refresh_token"), true
	}
	if given && (user != s.config.User || password != s.config.Password) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong password "+password)
		return
	}
	access := map[string][]string{}
	_ = r.ParseForm()
	for _, scope := range strings.Fields(strings.Join(r.Form["scope"], " ")) {
		rest, ok := strings.CutPrefix(scope, "repository:")
		i := strings.LastIndexByte(rest, ':')
		if !ok || i < 0 {
			continue
		}
		for _, action := range strings.Split(rest[i+1:], ",") {
			if given || s.config.AnonymousPull && action == "pull" {
				access[rest[:i]] = append(access[rest[:i]], action)
			}
		}
	}
	if !given && !s.config.AnonymousPull {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "log in first")
		return
	}
	s.mu.Lock()
	s.serial++
	value := fmt.Sprintf("token-%d-of-%s", s.serial, user)
	s.tokens[value] = &token{access, s.config.TokenUses}
	if s.config.TokenUses == 0 {
		s.tokens[value].uses = -1
	}
	s.mu.Unlock()
	answer := map[string]any{"token": value}
	if s.config.ExpiresIn > 0 {
		answer["expires_in"] = s.config.ExpiresIn
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// authorized lets a request pass, or answers it with a challenge.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if s.config.User == "" {
		return true
	}
	if s.config.Basic {
		if user, password, ok := r.BasicAuth(); ok && user == s.config.User && password == s.config.Password {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return false
	}
	scope, repo, action := "", "", "pull"
	for _, re := range []interface{ FindStringSubmatch(string) []string }{uploadsPath, blobPath, manifestPath, tagsPath, referrersPath} {
		if m := re.FindStringSubmatch(r.URL.Path); m != nil {
			repo = m[1]
			break
		}
	}
	switch r.Method {
	case http.MethodDelete:
		action = "delete"
		if uploadsPath.MatchString(r.URL.Path) {
			action = "push"
		}
	case http.MethodGet, http.MethodHead:
	default:
		action = "push"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if t := s.tokens[value]; t != nil && t.uses != 0 {
		t.uses--
		if repo == "" || slices.Contains(t.access[repo], action) {
			return true
		}
	}
	realm := s.config.Realm
	if realm == "" {
		realm = s.URL + "/token"
	}
	if repo != "" {
		scope = fmt.Sprintf(`,scope="repository:%s:%s"`, repo, action)
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s",service="test"%s`, realm, scope))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}
