// Package transfer is curl and wget, as far as builds use them: a file is downloaded
// by HTTP, to a file or to standard output.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/anyarch/anyarch/internal/native/command"
	"github.com/anyarch/anyarch/internal/native/download"
)

// Options are what the commands of a step share.
type Options struct {
	Client  *http.Client
	Scratch string // large downloads are kept there, and have to outlive the tree
	Offline bool
}

// Commands are curl and wget.
func Commands(o Options) []*command.Command {
	return []*command.Command{
		{Name: "curl", Check: curlOptions.Check("curl"), Run: o.curl},
		{Name: "wget", Check: wgetOptions.Check("wget"), Run: o.wget},
	}
}

var curlOptions = command.Options{
	Short: "fsSLo:OH:A:v4",
	Long: []string{"fail", "silent", "show-error", "location", "output=", "remote-name", "header=", "user-agent=", "retry=", "retry-delay=", "retry-connrefused", "retry-all-errors", "retry-max-time=", "connect-timeout=", "max-time=",
		"create-dirs", "proto=", "proto-redir=", "tlsv1.2", "tlsv1.3", "compressed-ssh", "no-progress-meter", "progress-bar", "http1.1", "ipv4", "url="},
	Same: map[string]string{"fail": "f", "silent": "s", "show-error": "S", "location": "L", "output": "o", "remote-name": "O", "header": "H", "user-agent": "A"},
}

var wgetOptions = command.Options{
	Short: "qO:P:cT:t:U:4",
	Long:  []string{"quiet", "output-document=", "directory-prefix=", "no-verbose", "timeout=", "tries=", "progress=", "show-progress", "https-only", "header=", "user-agent=", "retry-connrefused", "waitretry="},
	Same:  map[string]string{"quiet": "q", "output-document": "O", "directory-prefix": "P", "timeout": "T", "tries": "t", "user-agent": "U"},
	Plain: func(arg string) bool { return arg == "-nv" },
}

// request is one download.
type request struct {
	address  string
	headers  []string
	agent    string
	follow   bool
	protocol string // https only, if it is that
	tries    int
	limit    time.Duration
}

// answer is what came of it.
type answer struct {
	body   io.ReadCloser
	status int
	final  *url.URL
}

func (o Options) get(ctx context.Context, r request) (*answer, error) {
	if o.Offline {
		return nil, errors.New("the network is off for this step (--network=none)")
	}
	if !strings.Contains(r.address, "://") {
		r.address = "http://" + r.address
	}
	u, err := url.Parse(r.address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s: not an address", r.address)
	}
	if u.Scheme != "http" && u.Scheme != "https" || r.protocol == "https" && u.Scheme != "https" {
		return nil, fmt.Errorf("the protocol %s isn't allowed or supported", u.Scheme)
	}
	client := *o.Client
	client.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		switch {
		case !r.follow:
			return http.ErrUseLastResponse
		case len(via) > 20:
			return errors.New("too many redirects")
		case r.protocol == "https" && to.URL.Scheme != "https":
			return errors.New("it leads to an address without TLS")
		}
		return nil
	}
	if r.limit > 0 {
		client.Timeout = r.limit
	}
	var last error
	for try := range max(r.tries, 1) {
		if try > 0 {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", r.agent)
		req.Header.Set("Accept-Encoding", "identity")
		for _, h := range r.headers {
			k, v, _ := strings.Cut(h, ":")
			req.Header.Set(strings.TrimSpace(k), strings.TrimSpace(v))
		}
		end := download.Fetching(req)
		resp, err := client.Do(req) //nolint:bodyclose // the caller closes it
		end(resp)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			last = err
			continue
		}
		if (resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout) && try+1 < r.tries {
			_ = resp.Body.Close()
			continue
		}
		return &answer{resp.Body, resp.StatusCode, resp.Request.URL}, nil
	}
	var u2 *url.Error
	if errors.As(last, &u2) {
		last = u2.Err
	}
	return nil, last
}

// save writes a body to a file of the tree.
func (o Options) save(p *command.Proc, name string, body io.Reader) error {
	spool := &command.Spool{Scratch: o.Scratch}
	if _, err := io.Copy(spool, body); err != nil {
		return err
	}
	content, err := spool.Content()
	if err != nil {
		return err
	}
	return p.Tree.WriteFile(p.Path(name), content, p.Attr(0o666))
}

func seconds(text string) time.Duration {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n * float64(time.Second))
}

func count(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func (o Options) curl(ctx context.Context, p *command.Proc) (int, error) {
	opt, err := curlOptions.Parse("curl", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	list := append(opt.All["url"], opt.Args...)
	if len(list) == 0 {
		_, _ = fmt.Fprintln(p.Stderr, "curl: (2) no URL specified")
		return 2, nil
	}
	complain := func(code int, format string, args ...any) (int, error) {
		if !opt.Has["s"] || opt.Has["S"] {
			_, _ = fmt.Fprintf(p.Stderr, "curl: (%d) "+format+"\n", append([]any{code}, args...)...)
		}
		return code, nil
	}
	protocol := ""
	if v := opt.Values["proto"]; v != "" {
		if v != "=https" && v != "https" {
			return 0, &command.Unsupported{Command: "curl", What: "--proto " + v}
		}
		protocol = "https"
	}
	for i, address := range list {
		if strings.ContainsAny(address, "[]{}") {
			return 0, &command.Unsupported{Command: "curl", What: "patterns in addresses"}
		}
		name := ""
		switch {
		case opt.Has["O"]:
			u, err := url.Parse(address)
			if err != nil || path.Base(u.Path) == "/" || path.Base(u.Path) == "." {
				return complain(23, "Remote file name has no length")
			}
			name = path.Base(u.Path)
		case i < len(opt.All["o"]):
			name = opt.All["o"][i]
		}
		if name == "-" {
			name = ""
		}
		a, err := o.get(ctx, request{address: address, headers: opt.All["H"], agent: first(opt.Values["A"], "curl/8.0"), follow: opt.Has["L"], protocol: protocol,
			tries: 1 + count(opt.Values["retry"]), limit: seconds(opt.Values["max-time"])})
		if err != nil {
			if ctx.Err() != nil {
				return 1, err
			}
			return complain(7, "%v", err)
		}
		err = func() error {
			defer func() { _ = a.body.Close() }()
			if opt.Has["f"] && a.status >= 400 {
				return errStatus
			}
			if name == "" {
				_, err := io.Copy(p.Stdout, a.body)
				return err
			}
			if opt.Has["create-dirs"] {
				if err := p.Tree.MkdirAll(path.Dir(p.Path(name)), p.Attr(0o750)); err != nil {
					return err
				}
			}
			return o.save(p, name, a.body)
		}()
		switch {
		case errors.Is(err, errStatus):
			return complain(22, "The requested URL returned error: %d", a.status)
		case ctx.Err() != nil:
			return 1, context.Cause(ctx)
		case err != nil:
			return complain(23, "%v", err)
		}
	}
	return 0, nil
}

var errStatus = errors.New("the status is an error")

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func (o Options) wget(ctx context.Context, p *command.Proc) (int, error) {
	opt, err := wgetOptions.Parse("wget", p.Args[1:])
	if err != nil {
		return p.Failed(err)
	}
	var list []string
	for _, a := range opt.Args {
		if a != "-nv" {
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		return p.Errorf("missing URL")
	}
	if opt.Has["c"] {
		if p.Dialect != command.Busybox {
			return 0, &command.Unsupported{Command: "wget", What: "option -c"}
		}
	}
	for _, address := range list {
		a, err := o.get(ctx, request{address: address, headers: opt.All["header"], agent: first(opt.Values["U"], "Wget"), follow: true, tries: max(3, count(opt.Values["t"])), limit: 0})
		if err != nil {
			if ctx.Err() != nil {
				return 1, err
			}
			return p.Errorf("%v", err)
		}
		if a.status >= 400 {
			_ = a.body.Close()
			_, _ = p.Errorf("server returned error: HTTP/1.1 %d %s", a.status, http.StatusText(a.status))
			if p.Dialect == command.GNU {
				return 8, nil
			}
			return 1, nil
		}
		u, err := url.Parse(address)
		if err != nil {
			return p.Errorf("%v", err)
		}
		name := path.Base(u.Path)
		if name == "/" || name == "." {
			name = "index.html"
		}
		if u.RawQuery != "" && p.Dialect == command.GNU {
			name += "?" + u.RawQuery
		}
		if dir := opt.Values["P"]; dir != "" {
			name = dir + "/" + name
			if err := p.Tree.MkdirAll(p.Path(dir), p.Attr(0o777)); err != nil {
				return p.Errorf("%v", err)
			}
		}
		if opt.Has["O"] {
			name = opt.Values["O"]
		} else if _, err := p.Tree.Lstat(p.Path(name)); err == nil {
			_ = a.body.Close()
			return 0, &command.Unsupported{Command: "wget", What: "downloading " + name + ", which is there already", Fix: "wget -O " + name}
		}
		err = func() error {
			defer func() { _ = a.body.Close() }()
			if name == "-" {
				_, err := io.Copy(p.Stdout, a.body)
				return err
			}
			return o.save(p, name, a.body)
		}()
		if ctx.Err() != nil {
			return 1, context.Cause(ctx)
		}
		if err != nil {
			return p.Errorf("%v", err)
		}
	}
	return 0, nil
}
