// Package runner starts the program of an image on this machine, without a
// container engine.
//
// The image is unpacked into a temporary directory, which becomes the root of
// the program where the kernel allows it: for root as it is, for others in a
// user namespace. Where neither is possible the program runs with its own
// files only, which is enough for a static Go program. Programs for another
// architecture run under qemu-user if that is installed.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/anyarch/anyarch/internal/image"
	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/refusal"
)

// Options say what to run, and with what.
type Options struct {
	Source   image.Source
	Index    ocispec.Descriptor // an index or a manifest
	Platform platform.Platform
	Args     []string // replace the image's Cmd, if there are any
	Env      []string // added to the image's
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	LookPath func(string) (string, error) // for qemu
	// Share lists files of this machine that the program sees too, such as
	// /etc/resolv.conf. They are copied into the temporary root.
	Share []string
}

// Run unpacks and starts the image and waits for its program. The exit code is
// the program's. What can't be run here is a [refusal.Error] with code PA603.
func Run(ctx context.Context, o Options) (exitCode int, err error) {
	if runtime.GOOS != "linux" {
		return 0, refuse(o.Platform, "programs for Linux don't run on "+runtime.GOOS,
			"anyarch build --platform "+o.Platform.String()+" --output docker-archive:image.tar TARGET && docker load -i image.tar")
	}
	if o.Platform.OS != "linux" {
		return 0, refuse(o.Platform, "only images for Linux run here", "--platform "+platform.Local().String())
	}
	config, layers, err := find(ctx, o)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "anyarch-run-")
	if err != nil {
		return 0, err
	}
	defer removeAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // the program may run as another user
		return 0, err
	}
	if err := Unpack(ctx, o.Source, layers, dir); err != nil {
		return 0, err
	}
	share(dir, o.Share)
	return start(ctx, o, config, dir)
}

func refuse(p platform.Platform, why string, fix ...string) error {
	return &refusal.Error{Code: "PA603", Platform: p.String(), Summary: "can't run this image here: " + why, Fix: fix}
}

// find picks the manifest for the wanted platform.
func find(ctx context.Context, o Options) (ocispec.Image, []ocispec.Descriptor, error) {
	d := o.Index
	if image.IsIndex(d.MediaType) {
		var index ocispec.Index
		if _, err := image.FetchJSON(ctx, o.Source, d, &index); err != nil {
			return ocispec.Image{}, nil, err
		}
		var has []platform.Platform
		for _, m := range index.Manifests {
			has = append(has, platform.FromOCI(m.Platform))
		}
		best := o.Platform.Best(has)
		if best < 0 {
			return ocispec.Image{}, nil, refuse(o.Platform, "it has no such platform; it has "+platform.Names(has), "--platform "+has[0].String())
		}
		d = index.Manifests[best]
	}
	var manifest ocispec.Manifest
	if _, err := image.FetchJSON(ctx, o.Source, d, &manifest); err != nil {
		return ocispec.Image{}, nil, err
	}
	var config ocispec.Image
	if _, err := image.FetchJSON(ctx, o.Source, manifest.Config, &config); err != nil {
		return ocispec.Image{}, nil, err
	}
	if p := platform.FromOCI(&config.Platform); !o.Platform.Runs(p) {
		return ocispec.Image{}, nil, refuse(o.Platform, "it is for "+p.String(), "--platform "+p.String())
	}
	return config, manifest.Layers, nil
}

// command is what the image starts, with arguments replacing Cmd.
func command(c ocispec.ImageConfig, args []string) []string {
	if len(args) == 0 {
		args = c.Cmd
	}
	return append(append([]string{}, c.Entrypoint...), args...)
}

// start runs the command of config inside root.
func start(ctx context.Context, o Options, config ocispec.Image, root string) (int, error) {
	argv := command(config.Config, o.Args)
	if len(argv) == 0 {
		return 0, refuse(o.Platform, "it names no command", "anyarch run REF -- COMMAND")
	}
	env := append([]string{}, config.Config.Env...)
	env = append(env, o.Env...)
	program, err := lookUp(root, argv[0], env)
	if err != nil {
		return 0, refuse(o.Platform, err.Error())
	}
	argv[0] = program
	workdir := config.Config.WorkingDir
	if workdir == "" {
		workdir = "/"
	}
	j := job{argv: argv, env: env, dir: workdir, root: root, user: config.Config.User}
	if !native(o.Platform) {
		if err := j.emulate(o); err != nil {
			return 0, err
		}
	}
	return j.run(ctx, o)
}

// native reports whether the machine itself runs programs of p.
func native(p platform.Platform) bool {
	return p.Architecture == runtime.GOARCH || runtime.GOARCH == "amd64" && p.Architecture == "386"
}

// qemuNames are qemu-user's names of architectures.
var qemuNames = map[string]string{
	"386": "i386", "amd64": "x86_64", "arm": "arm", "arm64": "aarch64", "loong64": "loongarch64", "mips": "mips", "mipsle": "mipsel",
	"mips64": "mips64", "mips64le": "mips64el", "ppc64": "ppc64", "ppc64le": "ppc64le", "riscv64": "riscv64", "s390x": "s390x",
}

// job is one program that is about to start.
type job struct {
	argv, env []string
	dir       string // inside root
	root      string
	user      string
	// outside is an emulator of this machine that has to run outside root,
	// because it needs files of this machine itself.
	outside string
}

// emulate puts qemu-user in front of the command.
func (j *job) emulate(o Options) error {
	name := "qemu-" + qemuNames[o.Platform.Architecture]
	for _, candidate := range []string{name + "-static", name} {
		found, err := o.LookPath(candidate)
		if err != nil {
			continue
		}
		if strings.HasSuffix(candidate, "-static") {
			const inside = "/.anyarch-qemu"
			if err := copyFile(found, filepath.Join(j.root, inside), 0o755); err != nil {
				return err
			}
			j.argv = append([]string{inside, "-0", j.argv[0]}, j.argv...)
			return nil
		}
		j.outside = found
		return nil
	}
	return refuse(o.Platform, "this machine is "+platform.Local().String()+" and has no "+name+"-static",
		"apt-get install qemu-user-static", "--platform "+platform.Local().String())
}

// outsideArgv is the command line for a program that doesn't get root as its
// root: paths are those of this machine.
func (j *job) outsideArgv() []string {
	if j.outside != "" {
		argv := []string{j.outside, "-L", j.root, filepath.Join(j.root, j.argv[0])}
		return append(argv, j.argv[1:]...)
	}
	argv := append([]string{}, j.argv...)
	argv[0] = filepath.Join(j.root, argv[0])
	if len(argv) > 3 && argv[1] == "-0" { // the emulator's program
		argv[3] = filepath.Join(j.root, argv[3])
	}
	return argv
}

// wait runs a prepared command to its end.
func wait(ctx context.Context, cmd *exec.Cmd) (int, error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case ctx.Err() != nil:
		return 130, nil // stopped by its user, like any program in a terminal
	case err != nil:
		return 0, err
	}
	return 0, nil
}

func (j *job) cmd(ctx context.Context, o Options, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = j.env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Stdin, o.Stdout, o.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// lookUp finds a program inside root, by the image's PATH if its name has no
// slash, and gives its path inside.
func lookUp(root, name string, env []string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, kv := range env {
			if value, found := strings.CutPrefix(kv, "PATH="); found {
				search = value
			}
		}
		for dir := range strings.SplitSeq(search, ":") {
			candidates = append(candidates, path.Join("/", dir, name))
		}
	}
	for _, candidate := range candidates {
		inside, err := resolve(root, path.Clean("/"+candidate), true)
		if err != nil {
			continue
		}
		if info, err := os.Lstat(filepath.Join(root, inside)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path.Clean("/" + candidate), nil
		}
	}
	return "", fmt.Errorf("there is no program %s in it", name)
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if closeErr := dst.Close(); err == nil {
		err = closeErr
	}
	return err
}

// share copies small files of this machine into the root, where they are
// missing or empty; a program without them only has no name service.
func share(root string, files []string) {
	for _, file := range files {
		inside, err := resolve(root, file, false)
		if err != nil {
			continue
		}
		target := filepath.Join(root, inside)
		if info, err := os.Lstat(target); err == nil && (!info.Mode().IsRegular() || info.Size() > 0) {
			continue
		}
		if os.MkdirAll(filepath.Dir(target), 0o755) == nil {
			_ = copyFile(file, target, 0o644)
		}
	}
}

// removeAll removes the root also where directories in it can't be written.
func removeAll(dir string) {
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
