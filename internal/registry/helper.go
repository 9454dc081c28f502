package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	helperPrefix    = "docker-credential-"
	helperTimeout   = 30 * time.Second
	maxHelperOutput = 64 << 10
	tokenUser       = "<token>" // a helper's secret is an identity token
	helperNone      = "credentials not found in native keychain"
)

// helperName keeps a configuration file from naming any program but a helper on
// the PATH.
var helperName = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// helperFor is the helper that a file names for a host, with the name under
// which the helper knows the host and where the file says so.
func helperFor(cf *configfile.ConfigFile, host string) (helper, key, where string) {
	for _, key := range serverKeys(host) {
		if helper := cf.CredentialHelpers[key]; helper != "" {
			return helper, key, fmt.Sprintf("credHelpers[%q]", key)
		}
	}
	return cf.CredentialsStore, serverKeys(host)[0], "credsStore"
}

func fromHelper(ctx context.Context, cf *configfile.ConfigFile, host, place string) (c credential, ok bool, note string) {
	helper, key, where := helperFor(cf, host)
	if helper == "" {
		return credential{}, false, ""
	}
	place = fmt.Sprintf("%s%s (%s in %s)", helperPrefix, helper, where, place)
	out, err := runHelper(ctx, helper, "get", key)
	if err != nil {
		return credential{}, false, fmt.Sprintf("%s gave no credentials: %v", place, err)
	}
	if out == nil {
		return credential{}, false, ""
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out, &got); err != nil || got.Secret == "" {
		return credential{}, false, place + " gave no credentials: its output isn't what a helper prints"
	}
	auth := authn.AuthConfig{Username: got.Username, Password: got.Secret}
	if got.Username == tokenUser {
		auth = authn.AuthConfig{Username: tokenUser, IdentityToken: got.Secret}
	}
	return credential{auth: auth, place: place}, true, ""
}

// runHelper runs a credential helper (docker-credential-helpers' protocol). Its
// output is nil if it has no credentials. Errors never hold what it printed,
// because that may be a secret.
func runHelper(ctx context.Context, helper, verb, input string) ([]byte, error) {
	if !helperName.MatchString(helper) {
		return nil, errors.New("its name has other characters than letters, digits, . _ and -")
	}
	program, err := exec.LookPath(helperPrefix + helper)
	if err != nil {
		return nil, errors.New("it isn't on the PATH")
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second // for grandchildren that keep the pipe open
	out := &limitedBuffer{limit: maxHelperOutput, full: cancel}
	cmd.Stdout = out
	err = cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("it printed more than %d bytes", maxHelperOutput)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("it didn't end within %v", helperTimeout)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && strings.Contains(out.buf.String(), helperNone):
		return nil, nil
	case err != nil:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("it ended with %s", exit.ProcessState)
		}
		return nil, errors.New("it can't be run")
	}
	return out.buf.Bytes(), nil
}

// limitedBuffer takes so much and no more. It doesn't embed its buffer, whose
// ReadFrom would take everything.
type limitedBuffer struct {
	buf   bytes.Buffer
	limit int
	full  func()
	over  bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.limit {
		b.over = true
		b.full()
		return 0, io.ErrShortWrite
	}
	return b.buf.Write(p)
}
