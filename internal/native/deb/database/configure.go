package database

import (
	"context"
	"fmt"
)

// Configure puts the configuration files of an unpacked package in place and runs
// its postinst; then it is installed. What it depends on must be configured before,
// but for packages that depend on it in turn. A *PromptError is a configuration file
// that dpkg would ask about.
func (d *Database) Configure(ctx context.Context, name string) error {
	p := d.Get(name)
	switch {
	case p == nil:
		return fmt.Errorf("no package named '%s' is installed, cannot configure", name)
	case p.State == Installed || p.State == TriggersPending || p.State == TriggersAwaited:
		return fmt.Errorf("package %s is already installed and configured", p.FileName())
	case p.State != Unpacked && p.State != HalfConfigured:
		return fmt.Errorf("package %s is not ready for configuration: it is %s", p.FileName(), p.State)
	case p.Flag == "reinstreq":
		return fmt.Errorf("package %s is in a very bad inconsistent state; it has to be installed again", p.FileName())
	}
	if err := d.configure(ctx, p); err != nil {
		return fmt.Errorf("configure %s (%s): %w", p.FileName(), p.Version, err)
	}
	return nil
}

func (d *Database) configure(ctx context.Context, p *Package) error {
	if err := d.checkConfigure(p); err != nil {
		return err
	}
	if err := d.reload(); err != nil {
		return err
	}
	d.log("Setting up %s (%s) ...", p.FileName(), p.Version)
	if err := d.activateOf(p); err != nil {
		return err
	}
	if p.State == Unpacked {
		for i := range p.Conffiles {
			if f := &p.Conffiles[i]; !f.Obsolete && !f.RemoveOnUpgrade {
				if err := d.configureConffile(p, f); err != nil {
					return err
				}
			}
		}
	}
	p.set(HalfConfigured)
	// dpkg gives an empty word where there was no version.
	if err := d.runInstalled(ctx, p, "postinst", "configure", p.ConfigVersion.String()); err != nil {
		return err
	}
	p.Flag = "ok"
	p.TriggersPending = nil
	d.settle(p)
	d.acted(p)
	return nil
}

// ConfigureAll configures all packages that are unpacked, as dpkg --configure -a does:
// what a package depends on comes before it. Where packages depend on each other in
// a circle, the last of it in the order of names and fields is the first.
func (d *Database) ConfigureAll(ctx context.Context) error {
	started := map[*Package]bool{}
	var visit func(p *Package) error
	visit = func(p *Package) error {
		if started[p] {
			return nil
		}
		started[p] = true
		for _, field := range []string{"Depends", "Pre-Depends"} {
			list, err := p.relation(field)
			if err != nil {
				return err
			}
			for _, alternatives := range list {
				next, err := d.satisfiers(alternatives)
				if err != nil {
					return err
				}
				for _, q := range next {
					if q.State == Unpacked || q.State == HalfConfigured {
						if err := visit(q); err != nil {
							return err
						}
					}
				}
			}
		}
		return d.Configure(ctx, p.ID())
	}
	for _, p := range d.Unconfigured() {
		if err := visit(p); err != nil {
			return err
		}
	}
	return nil
}
