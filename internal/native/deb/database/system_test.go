package database

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/anyarch/anyarch/internal/native/deb/control"
	"github.com/anyarch/anyarch/internal/native/deb/debtest"
	"github.com/anyarch/anyarch/internal/native/deb/solve"
)

var wholeSystem = flag.String("system", "", "packages to install with all they need on an empty system, by dpkg and here, as \"curl git\"")

// TestSystem installs a whole system of packages of the archive, without their
// scripts, in the order that the solver gives, by dpkg and here. It takes minutes, so
// only who asks gets it: -system "git curl".
func TestSystem(t *testing.T) {
	if *wholeSystem == "" {
		t.Skip("not asked for with -system")
	}
	debtest.NeedDpkg(t)
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").Output()
	if err != nil {
		t.Skip(err)
	}
	var available []*solve.Package
	arguments := strings.Fields(*wholeSystem)
	for _, file := range strings.Fields(string(out)) {
		data, err := exec.Command("/usr/lib/apt/apt-helper", "cat-file", file).Output()
		if err != nil {
			t.Skip(err)
		}
		r := control.NewReader(bytes.NewReader(data))
		for {
			c, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := solve.NewPackage(c)
			if err != nil {
				t.Fatal(err)
			}
			available = append(available, p)
			if c.Get("Essential") == "yes" {
				arguments = append(arguments, p.Name)
			}
		}
	}
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Skip(err)
	}
	u := solve.New(strings.TrimSpace(string(arch)), nil, available)
	plan, err := u.Install(arguments, solve.Options{Recommends: true})
	if err != nil {
		t.Fatal(err)
	}
	actions, err := u.Actions(plan)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range plan.Steps {
		names = append(names, s.String())
	}
	files := debtest.Download(t, names...)
	p := newPair(t)
	if !p.real {
		t.Skip("dpkg can't do everything here")
	}
	d := p.open(t, Options{})
	ctx := context.Background()
	// dpkg breaks circles only among packages that it configures at once.
	var waiting []string
	configure := func() {
		t.Helper()
		if len(waiting) == 0 {
			return
		}
		if err := p.dpkg(append([]string{"--no-triggers", "--configure"}, waiting...)...); err != nil {
			t.Fatal(err)
		}
		waiting = nil
	}
	for _, a := range actions {
		if a.Configure {
			if err := d.Configure(ctx, a.Name); err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, a.Name)
			continue
		}
		configure()
		file := withoutScripts(t, files[a.Name])
		if err := d.Unpack(ctx, read(t, file)); err != nil {
			t.Fatal(err)
		}
		if err := p.dpkg("--no-triggers", "--auto-deconfigure", "--unpack", file); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(file)
	}
	configure()
	if err := d.ProcessTriggers(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.dpkg("--triggers-only", "-a"); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	p.compare(t, "in the end")
	t.Logf("%d packages, %d files", len(plan.Steps), len(p.memory(t)))
}
