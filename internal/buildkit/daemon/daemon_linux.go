package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/anyarch/anyarch/internal/buildkit"
	"github.com/anyarch/anyarch/internal/refusal"
)

// startTime is how long a daemon may take to answer.
const startTime = time.Minute

// lookTime is how long the lock may be taken by those who only look whether it is.
const lookTime = 5 * time.Second

// Start starts the daemon unless it runs, and waits until it answers. started says that
// it didn't run. What is missing on the machine is a refusal.Error with code PA146.
func Start(ctx context.Context, o Options) (started bool, err error) {
	if _, err := o.find(); err != nil {
		return false, err
	}
	if err := o.make(); err != nil {
		return false, err
	}
	// Two that start at once are one that starts and one that finds it.
	starting := flock.New(o.lock() + ".start")
	if _, err := starting.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return false, err
	}
	defer func() { _ = starting.Close() }()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	s, err := Look(o)
	if err != nil {
		return false, err
	}
	o.Use()
	if s.Running {
		err := Await(ctx, o)
		if now, look := Look(o); err == nil || look != nil || now.Running {
			return false, err
		}
		// It was just ending, since nobody had used it: here is somebody.
	}
	log, err := os.OpenFile(o.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(o.Supervisor[0], o.Supervisor[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this program and its terminal
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	return true, o.answer(ctx, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// Await waits until a daemon that runs answers: it may have been started a moment ago. If
// it ends instead, that is the error.
func Await(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return o.answer(ctx, func() bool { now, err := Look(o); return err == nil && !now.Running })
}

// Supervise runs the daemon until it is idle, it ends, or ctx does.
func Supervise(ctx context.Context, o Options) error {
	p, err := o.find()
	if err != nil {
		return err
	}
	if err := o.make(); err != nil {
		return err
	}
	lock := flock.New(o.lock())
	short, cancel := context.WithTimeout(ctx, lookTime)
	ok, err := lock.TryLockContext(short, 20*time.Millisecond)
	cancel()
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil // another one is there
		}
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := os.WriteFile(o.pid(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(o.pid()) }() // before the lock is free: the number may be another's soon
	_ = os.Remove(o.socket())                 // of one that was killed
	args := o.arguments(p)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if cmd.Env, err = o.environment(p); err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	ended := make(chan error, 1)
	begun := make(chan error)
	go func() {
		// A process gets the signal of its parent's death when the thread ends that
		// started it: this one stays until then.
		runtime.LockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-begun; err != nil {
		return err
	}
	stop := func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		return nil
	}
	tick := time.NewTicker(max(o.Idle/10, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return stop()
		case <-tick.C:
			if o.idle(ctx) {
				return stop()
			}
		}
	}
}

// idle reports whether nobody has used the daemon for long enough, and it builds nothing.
func (o Options) idle(ctx context.Context) bool {
	info, err := os.Stat(o.used())
	if err == nil && time.Since(info.ModTime()) < o.Idle {
		return false
	}
	n, err := buildkit.Connect(ctx, o.Endpoint())
	if err != nil {
		return false // it may be starting; if it has ended, that is seen elsewhere
	}
	defer func() { _ = n.Close() }()
	busy, err := n.Busy(ctx)
	if busy {
		o.Use()
	}
	return err == nil && !busy
}

// Stop ends the daemon, and waits for it. stopped says that it ran.
func Stop(ctx context.Context, o Options) (stopped bool, err error) {
	s, err := Look(o)
	if err != nil || !s.Running || s.PID <= 0 {
		return false, err
	}
	// The lock is held, so the process that wrote its number lives.
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return false, &refusal.Error{Code: "PA146", Kind: refusal.Failed, Place: "anyarch builder stop", Summary: "the daemon can't be ended", Seen: []string{err.Error()}, Err: err}
	}
	for pid := s.PID; s.Running && s.PID == pid; { // another one may be started at once
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		if s, err = Look(o); err != nil {
			return false, err
		}
	}
	return true, nil
}

var errForeign = errors.New("it belongs to another user")

// private refuses a directory that somebody else could have made.
func private(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || ok && int(st.Uid) != os.Getuid() {
		return &refusal.Error{Code: "PA146", Kind: refusal.Failed, Place: dir, Summary: "this directory isn't this user's", Err: errForeign, Fix: []string{"rm -r " + dir}}
	}
	return os.Chmod(dir, 0o700)
}
