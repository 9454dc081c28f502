package prove_test

import (
	"testing"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/prove"
)

func TestImages(t *testing.T) {
	t.Parallel()
	amd64, arm64 := compile(t, small, "linux/amd64"), compile(t, small, "linux/arm64")
	app := []string{"/app"}
	tests := []struct {
		name   string
		shapes func(f fixture) []shape
		depth  prove.Depth
		allow  []string
		want   []string
	}{
		{name: "sound", shapes: func(f fixture) []shape {
			return []shape{
				{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64))}},
				{platform: "linux/arm64", entrypoint: app, layers: []layer{f.layer(exe("app", arm64))}},
			}
		}},
		{name: "wrong entrypoint", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64))}}}
		}, want: []string{"PA201 error linux/arm64"}},
		{name: "half-arm64 image", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", entrypoint: app, layers: []layer{
				f.layer(dir("bin"), exe("bin/busybox", amd64), link("bin/sh", "/bin/busybox"), exe("lib/ld-musl-x86_64.so.1", amd64)),
				f.layer(exe("app", arm64)),
			}}}
		}, want: []string{"PA202 error linux/arm64"}},
		{name: "half-arm64 image, not looked at", depth: prove.DepthEntrypoint, shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", entrypoint: app, layers: []layer{f.layer(exe("bin/busybox", amd64)), f.layer(exe("app", arm64))}}}
		}},
		{name: "identical entrypoints", shapes: func(f fixture) []shape {
			l := f.layer(exe("app", amd64))
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}}, {platform: "linux/arm64", entrypoint: app, layers: []layer{l}}}
		}, want: []string{"PA201 error linux/arm64", "PA207 warning linux/arm64"}},
		{name: "index and config disagree", depth: prove.DepthConfig, shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", config: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", arm64))}}}
		}, want: []string{"PA203 error linux/arm64"}},
		{name: "config without platform", depth: prove.DepthConfig, shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", noPlatform: true}}
		}, want: []string{"PA203 error linux/arm64"}},
		{name: "GOAMD64=v3 under plain amd64", shapes: func(f fixture) []shape {
			v3 := compile(t, small, "linux/amd64", "GOAMD64=v3")
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", v3))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "GOAMD64=v1 under amd64/v3", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64/v3", entrypoint: app, layers: []layer{f.layer(exe("app", amd64))}}}
		}},
		{name: "entrypoint through merged directories", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"app"}, layers: []layer{
				f.layer(dir("usr/bin"), link("bin", "usr/bin"), link("usr/bin/app", "../../opt/real")),
				f.layer(exe("opt/real", amd64)),
			}, env: []string{"PATH=/nowhere:/bin"}}}
		}},
		{name: "whiteout hides a wrong program", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{
				f.layer(exe("bin/sh", arm64), exe("opt/x/y", arm64), exe("sbin/z", arm64)),
				f.layer(exe("app", amd64), file("bin/.wh.sh", ""), file("opt/.wh.x", ""), file("sbin/.wh..wh..opq", "")),
			}}}
		}},
		{name: "whiteout hides the entrypoint", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64)), f.layer(file(".wh.app", ""))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "an upper layer replaces a wrong entrypoint", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", arm64)), f.layer(exe("app", amd64))}}}
		}},
		{name: "hard links", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{
				f.layer(exe("bin/one", arm64)),
				f.layer(hard("early", "opt/real"), exe("opt/real", amd64), hard("app", "opt/real"), hard("usr/bin/two", "bin/one")),
			}}}
		}, want: []string{"PA202 error linux/amd64"}},
		{name: "the last entry of a name counts", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", arm64), exe("./app", amd64))}}}
		}},
		{name: "the last entry of a name is wrong", depth: prove.DepthEntrypoint, shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64), exe("/app", arm64))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "zstd", shapes: func(f fixture) []shape {
			archive := tarOf(f, exe("app", amd64))
			l := f.raw(archive)
			l.Descriptor = f.blob("application/vnd.oci.image.layer.v1.tar+zstd", zstded(f, archive))
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}}}
		}},
		{name: "not compressed", shapes: func(f fixture) []shape {
			archive := tarOf(f, exe("app", amd64))
			l := f.raw(archive)
			l.Descriptor = f.blob("application/vnd.oci.image.layer.v1.tar", archive)
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}}}
		}},
		{name: "several gzip members", shapes: func(f fixture) []shape {
			archive := tarOf(f, exe("app", amd64))
			l := f.raw(archive)
			half := len(archive) / 2
			l.Descriptor = f.blob("application/vnd.oci.image.layer.v1.tar+gzip", append(gzipped(f, archive[:half]), gzipped(f, archive[half:])...))
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}}}
		}},
		{name: "encrypted", shapes: func(f fixture) []shape {
			l := f.layer(exe("app", amd64))
			l.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}}}
		}, want: []string{"PA219 error linux/amd64", "PA217 warning linux/amd64"}},
		{name: "shell form", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/bin/sh", "-c", "exec FOO=1 /app --flag | cat"}, layers: []layer{f.layer(exe("bin/sh", amd64), exe("app", arm64))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "shell form without a shell", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/bin/sh", "-c", "app"}, layers: []layer{f.layer(exe("app", amd64))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "script", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/entry.sh"}, layers: []layer{f.layer(exe("bin/sh", arm64), exe("entry.sh", []byte("#!/bin/sh -e\nexec app\n")))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "script by env", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/entry.sh"}, layers: []layer{f.layer(exe("usr/bin/env", amd64), exe("bin/bash", arm64), exe("entry.sh", []byte("#!/usr/bin/env bash\n")))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "script without its interpreter", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/entry.sh"}, layers: []layer{f.layer(exe("entry.sh", []byte("#!/bin/bash\n")))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "script with Windows line ends", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/entry.sh"}, layers: []layer{f.layer(exe("bin/sh", amd64), exe("entry.sh", []byte("#!/bin/sh\r\nexec app\r\n")))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "script that is its own interpreter", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"/entry.sh"}, layers: []layer{f.layer(exe("entry.sh", []byte("#!/entry.sh\n")))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "init", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"tini", "-g", "--"}, cmd: app, layers: []layer{f.layer(exe("sbin/tini", amd64), exe("app", arm64))}}}
		}, want: []string{"PA201 error linux/amd64"}},
		{name: "not executable", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(entry{name: "app", data: amd64, mode: 0o644})}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "executable for root only", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, user: "65532:65532", layers: []layer{f.layer(entry{name: "app", data: amd64, mode: 0o744})}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "a directory", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(dir("app"))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "neither program nor script", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", []byte("exec app\n")))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "links in a circle", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(link("app", "a/b"), link("a", "b"), link("b", "a"))}}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "relative to the working directory", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: []string{"./app"}, workdir: "/srv/x", layers: []layer{f.layer(exe("srv/x/app", amd64))}}}
		}},
		{name: "starts nothing", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", layers: []layer{f.layer(file("etc/passwd", "root"))}}}
		}},
		{name: "no layers", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app}}
		}, want: []string{"PA217 error linux/amd64"}},
		{name: "TLS without roots", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", compile(t, client, "linux/amd64")))}}}
		}, want: []string{"PA214 warning linux/amd64"}},
		{name: "TLS with roots", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{
				f.layer(file("etc/ssl/cert.pem", "-----BEGIN")), f.layer(exe("app", compile(t, client, "linux/amd64"))),
			}}}
		}},
		{name: "dynamic without loader", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", compile(t, small, "linux/amd64", "PIE=1")))}}}
		}, want: []string{"PA209 error linux/amd64"}},
		{name: "foreign files on purpose", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64),
				exe("srv/node_modules/x/prebuilds/linux-arm64/node.napi.node", arm64),
				entry{name: "usr/local/go/src/debug/elf/testdata/hello", data: arm64, mode: 0o644},
				entry{name: "usr/lib/python3/site-packages/pip/_vendor/distlib/w64.exe", data: compile(t, small, "windows/amd64"), mode: 0o644})}}}
		}, want: []string{"PA202 warning linux/amd64"}},
		{name: "allowed", allow: []string{"/usr/local/go/**/testdata", "opt/*"}, shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64), exe("opt/x", arm64),
				exe("usr/local/go/src/debug/elf/testdata/hello", arm64))}}}
		}},
		{name: "i386 in amd64", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", amd64), exe("usr/bin/wine", compile(t, small, "linux/386")))}}}
		}, want: []string{"PA202 warning linux/amd64"}},
		{name: "32-bit ARM in arm64", shapes: func(f fixture) []shape {
			return []shape{{platform: "linux/arm64", entrypoint: app, layers: []layer{f.layer(exe("app", arm64), exe("usr/bin/old", compile(t, small, "linux/arm")))}}}
		}, want: []string{"PA202 error linux/arm64"}},
		{name: "Windows", shapes: func(f fixture) []shape {
			win := compile(t, small, "windows/amd64")
			return []shape{
				{platform: "windows/amd64", entrypoint: []string{`C:\App.exe`}, layers: []layer{f.layer(dir("Files"), dir("Hives"), exe("Files/app.exe", win))}},
				{platform: "linux/amd64", entrypoint: app, layers: []layer{f.layer(exe("app", win))}},
				{platform: "windows/arm64", entrypoint: []string{"cmd", "/S", "/C", "app"}, layers: []layer{f.layer(exe("Files/Windows/System32/CMD.EXE", amd64))}},
			}
		}, want: []string{"PA201 error linux/amd64", "PA201 error windows/arm64", "PA207 warning linux/amd64"}},
		{name: "macOS", shapes: func(f fixture) []shape {
			mac := compile(t, small, "darwin/arm64")
			return []shape{
				{platform: "darwin/arm64", entrypoint: app, layers: []layer{f.layer(exe("app", mac))}},
				{platform: "linux/arm64", entrypoint: app, layers: []layer{f.layer(exe("app", mac))}},
			}
		}, want: []string{"PA201 error linux/arm64", "PA207 warning linux/arm64"}},
		{name: "fewer diff IDs than layers", shapes: func(f fixture) []shape {
			l := f.layer(exe("app", amd64))
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l, l}, diffIDs: append([]digestOf{}, l.diffID)}}
		}, want: []string{"PA216 error linux/amd64"}},
		{name: "wrong diff ID", shapes: func(f fixture) []shape {
			l := f.layer(exe("app", amd64))
			return []shape{{platform: "linux/amd64", entrypoint: app, layers: []layer{l}, diffIDs: []digestOf{l.Digest}}}
		}, want: []string{"PA216 error linux/amd64"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var manifests []descriptor
			for _, s := range test.shapes(f) {
				manifests = append(manifests, f.manifest(s))
			}
			index := f.index(manifests...)
			r := f.verify(index, prove.Options{Depth: test.depth, Allow: test.allow})
			expect(t, r, test.want...)
			if len(r.Platforms) != len(manifests) {
				t.Errorf("%d platforms", len(r.Platforms))
			}
		})
	}
}

func TestSoundReport(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	amd64, arm64 := compile(t, small, "linux/amd64"), compile(t, small, "linux/arm64")
	index := f.index(
		f.manifest(shape{platform: "linux/amd64", entrypoint: []string{"/app"}, cmd: []string{"-x"}, layers: []layer{f.layer(file("etc/x", "y")), f.layer(exe("app", amd64))}}),
		f.manifest(shape{platform: "linux/arm64", entrypoint: []string{"/app"}, layers: []layer{f.layer(exe("app", arm64))}}))
	for _, depth := range []prove.Depth{prove.DepthEntrypoint, prove.DepthAll} {
		r := f.verify(index, prove.Options{Depth: depth, Require: platform.Default()})
		expect(t, r)
		p := r.Platforms[0]
		b := p.EntrypointBinary
		if b == nil || b.Machine != "x86-64" || !b.Static || b.GoArch != "amd64" || b.GoOS != "linux" || b.Path != "/app" || b.GoLevel.Value != "v1" || b.ModulePath != "example.com/hello" || b.Digest == "" {
			t.Errorf("entrypoint: %+v", b)
		}
		if r.Platforms[1].EntrypointBinary.Machine != "AArch64" || r.Platforms[1].Name != "linux/arm64" {
			t.Errorf("second platform: %+v", r.Platforms[1])
		}
		if p.Layers[0].Read != (depth == prove.DepthAll) || !p.Layers[1].Read || (len(p.Binaries) == 1) != (depth == prove.DepthAll) {
			t.Errorf("depth %s: %+v", depth, p)
		}
	}
}
