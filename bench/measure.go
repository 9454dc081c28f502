package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what one run of one tool took.
type sample struct {
	Module   string `json:"module"`
	Scenario string `json:"scenario"`
	Tool     string `json:"tool"`
	Round    int    `json:"round"`
	// Platforms is how many the module was built for.
	Platforms int     `json:"platforms"`
	Wall      float64 `json:"wall"`   // seconds
	CPU       float64 `json:"cpu"`    // seconds, user and system, with all descendants
	Memory    int64   `json:"memory"` // bytes, highest resident size of one process of the tool itself; 0 if unknown
	// Together is the highest sum of what all processes of the tool had for themselves
	// at one time, in bytes: it, the go commands, compilers and linkers. It is sampled,
	// in cold runs; 0 if unknown.
	Together int64   `json:"together"`
	Uploaded int64   `json:"uploaded"` // bytes of blobs that were sent
	Sent     int64   `json:"sent"`     // bytes of all request bodies
	Requests int64   `json:"requests"`
	Others   float64 `json:"others"` // CPUs that everything else kept busy; -1 if unknown
}

// once runs a tool once.
func (b *bench) once(ctx context.Context, t *tool, m *module, state string, cold bool) (sample, error) {
	var w meter
	b.registry.counts.reset()
	servers := []int{os.Getpid(), b.registry.pid}
	busy, served, ok := busyTime(), processTime(servers...), runtime.GOOS == "linux"
	all := func() int64 { return 0 }
	if cold && ok {
		all = watchTogether(os.Getpid(), b.registry.pid)
	}
	begin := time.Now()
	err := t.build(ctx, &w, m, state)
	wall, together := time.Since(begin), all()
	if err != nil {
		return sample{}, err
	}
	s := sample{Wall: wall.Seconds(), CPU: w.cpu.Seconds(), Memory: w.peak, Together: together, Others: -1}
	if ok {
		others := busyTime() - busy - (processTime(servers...) - served)
		// Ticks of 10 ms don't quite add up.
		s.Others = max(0, others.Seconds()-s.CPU) / s.Wall
	}
	s.Uploaded, s.Sent, s.Requests = b.registry.counts.get()
	return s, nil
}

// meter adds up what the commands of one run take. Commands may run at once.
type meter struct {
	mu   sync.Mutex // guards what follows
	cpu  time.Duration
	peak int64
}

// memoryInterval is how often a process is asked for its peak, which the
// system keeps: only what it takes in its last moments can be missed.
const memoryInterval = 10 * time.Millisecond

// run runs one command of a tool.
func (w *meter) run(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := command(ctx, dir, env, args...)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		return err
	}
	done, sampled := make(chan struct{}), make(chan int64)
	go func() { sampled <- watchMemory(cmd.Process.Pid, done) }()
	err := cmd.Wait()
	close(done)
	peak := <-sampled
	if err != nil {
		return commandError(ctx, args, err, messages.String())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	w.peak = max(w.peak, peak)
	return nil
}

// watchMemory is the highest resident size of a process, without its children.
func watchMemory(pid int, done <-chan struct{}) int64 {
	if runtime.GOOS != "linux" {
		<-done
		return 0
	}
	file := fmt.Sprintf("/proc/%d/status", pid)
	var peak int64
	ticks := time.NewTicker(memoryInterval)
	defer ticks.Stop()
	for {
		if status, err := os.ReadFile(file); err == nil {
			peak = max(peak, statusBytes(string(status), "VmHWM:"))
		}
		select {
		case <-done:
			return peak
		case <-ticks.C:
		}
	}
}

// statusBytes reads a size from /proc/PID/status (proc_pid_status(5)), in bytes.
func statusBytes(status, name string) int64 {
	for line := range strings.Lines(status) {
		if value, found := strings.CutPrefix(line, name); found {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}

// togetherInterval is how often all processes are looked at, which costs a few
// milliseconds.
const togetherInterval = 150 * time.Millisecond

// watchTogether looks at all that a process has started, except one of its children,
// until the function that it returns is called, which gives the most memory that they
// had at one time.
func watchTogether(pid, except int) func() int64 {
	done, result := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		ticks := time.NewTicker(togetherInterval)
		defer ticks.Stop()
		for {
			select {
			case <-done:
				result <- most
				return
			case <-ticks.C:
				most = max(most, anonymousBelow(pid, except))
			}
		}
	}()
	return func() int64 {
		close(done)
		return <-result
	}
}

// anonymousBelow is what the descendants of a process have in memory that is no part of
// a file, in bytes.
func anonymousBelow(pid, except int) int64 {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	parents := map[int]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil || child == except {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 1 {
			parents[child], _ = strconv.Atoi(fields[1]) // ppid (proc_pid_stat(5))
		}
	}
	var sum int64
	for child := range parents {
		for at := parents[child]; at > 1; at = parents[at] {
			if at == pid {
				if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child)); err == nil {
					sum += statusBytes(string(status), "RssAnon:")
				}
				break
			}
		}
	}
	return sum
}

// tick is the unit of times below /proc, which is the same on all Linux
// systems that Go runs on.
const tick = 10 * time.Millisecond

// busyTime is how long the machine's CPUs have been busy, all together.
func busyTime() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return busyIn(line)
}

// busyIn adds up the first line of /proc/stat, without idle, iowait and steal,
// and without guest times, which are in user already (proc_stat(5)).
func busyIn(line string) time.Duration {
	var sum time.Duration
	for i, field := range strings.Fields(line) {
		if n, err := strconv.ParseInt(field, 10, 64); err == nil && (i >= 1 && i <= 3 || i == 6 || i == 7) {
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// processTime is how long processes have been running on CPUs, without their
// children.
func processTime(pids ...int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command, in brackets, may hold anything.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		for _, i := range []int{11, 12} { // utime and stime (proc_pid_stat(5))
			if i < len(fields) {
				if n, err := strconv.ParseInt(fields[i], 10, 64); err == nil {
					sum += time.Duration(n) * tick
				}
			}
		}
	}
	return sum
}

// command prepares a command that ends with ctx, with all that it has started.
func command(ctx context.Context, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(env[:len(env):len(env)], "PWD="+dir)
	cmd.WaitDelay = 5 * time.Second
	ownGroup(cmd)
	return cmd
}

// output runs a command that isn't measured.
func output(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := command(ctx, dir, env, args...)
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return "", commandError(ctx, args, err, messages.String())
	}
	return string(out), nil
}

func commandError(ctx context.Context, args []string, err error, messages string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	const most = 3000
	if len(messages) > most {
		messages = "…" + messages[len(messages)-most:]
	}
	return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(messages))
}
