package database

import (
	"context"
	"fmt"
	"slices"

	"github.com/anyarch/anyarch/internal/native/deb/archive"
	"github.com/anyarch/anyarch/internal/native/deb/control"
)

// Script is a maintainer script at the moment when dpkg runs it (Debian Policy 6.5).
type Script struct {
	Package      string // DPKG_MAINTSCRIPT_PACKAGE
	Architecture string // DPKG_MAINTSCRIPT_ARCH
	Version      control.Version
	Name         string // DPKG_MAINTSCRIPT_NAME: preinst, postinst, prerm or postrm
	Args         []string
	Content      []byte
}

func (s *Script) String() string {
	return fmt.Sprintf("%s of %s (%s)", s.Name, s.Package, s.Version)
}

// run gives a script to the caller and takes over what it may have changed.
func (d *Database) run(ctx context.Context, s *Script) error {
	if d.o.Script == nil {
		return nil
	}
	if err := d.o.Script(ctx, s); err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	if err := d.reload(); err != nil {
		return err
	}
	return d.incorporate()
}

// runInstalled runs a script of an installed package if it has it.
func (d *Database) runInstalled(ctx context.Context, p *Package, name string, args ...string) error {
	content, ok, err := d.Info(p, name)
	if err != nil || !ok {
		return err
	}
	return d.run(ctx, &Script{p.Name, p.Architecture, p.Version, name, args, content})
}

// runNew runs a script of a package that is being unpacked if it has it.
func (d *Database) runNew(ctx context.Context, a *archive.Package, name string, args ...string) error {
	f, ok := a.File(name)
	if !ok {
		return nil
	}
	return d.run(ctx, &Script{a.Name, a.Architecture, a.Version, name, slices.DeleteFunc(args, func(s string) bool { return s == "" }), f.Data})
}

// Info gives a file that the database keeps about a package, such as "postinst" or
// "md5sums", and whether there is one.
func (d *Database) Info(p *Package, name string) ([]byte, bool, error) {
	file := d.infoFile(p, name)
	if _, err := d.tree.Lstat(file); isMissing(err) {
		return nil, false, nil
	}
	data, err := d.tree.ReadFile(file)
	return data, err == nil, err
}

// infoFile is where a file about a package is. A database from before multi-arch has
// no architecture in its names.
func (d *Database) infoFile(p *Package, name string) string {
	file := infoDir + "/" + p.FileName() + "." + name
	if p.MultiArch == "same" {
		if _, err := d.tree.Lstat(file); isMissing(err) {
			plain := infoDir + "/" + p.Name + "." + name
			if _, err := d.tree.Lstat(plain); err == nil {
				return plain
			}
		}
	}
	return file
}
