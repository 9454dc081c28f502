package buildkit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/anyarch/anyarch/internal/platform"
	"github.com/anyarch/anyarch/internal/progress"
)

// logLines is how much of what a failing command wrote is kept.
const logLines = 24

// show turns what a daemon reports into events, until the channel is closed. What the
// failed instruction wrote last comes out of the channel that it returns.
func (b *Build) show(p platform.Platform, n *Node, status <-chan *client.SolveStatus, alive *signs) <-chan []string {
	out := make(chan []string, 1)
	go func() {
		s := screen{b: b, platform: p.String(), ends: map[digest.Digest]func(progress.State, string){}, done: map[digest.Digest]bool{}, logs: map[digest.Digest]*bytes.Buffer{}}
		if len(b.o.Nodes) > 1 {
			s.on = "  on " + n.Address
		}
		for st := range status {
			alive.see()
			s.update(st)
		}
		for _, end := range s.ends {
			end(progress.Failed, "interrupted")
		}
		out <- s.log()
	}()
	return out
}

// screen is what is shown of one platform.
type screen struct {
	b        *Build
	platform string
	on       string // names the node, where there are several
	ends     map[digest.Digest]func(progress.State, string)
	done     map[digest.Digest]bool
	logs     map[digest.Digest]*bytes.Buffer
	failed   digest.Digest
}

func (s *screen) update(st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		switch {
		case s.done[v.Digest] || v.Started == nil:
			continue
		case s.ends[v.Digest] == nil && !strings.HasPrefix(v.Name, "[internal]"):
			s.ends[v.Digest] = s.b.o.Event.Start("", s.platform, progress.Build, v.Name+s.on)
		}
		if v.Error != "" {
			s.failed = v.Digest
		}
		if v.Completed == nil {
			continue
		}
		s.done[v.Digest] = true
		end := s.ends[v.Digest]
		delete(s.ends, v.Digest)
		if v.Error == "" {
			delete(s.logs, v.Digest)
		}
		if end == nil {
			continue
		}
		switch {
		case v.Error != "":
			end(progress.Failed, v.Name+s.on)
		case v.Cached:
			end(progress.Cached, v.Name+s.on)
		default:
			end(progress.Done, v.Name+s.on)
		}
	}
	for _, l := range st.Logs {
		if s.done[l.Vertex] && l.Vertex != s.failed {
			continue
		}
		if s.logs[l.Vertex] == nil {
			s.logs[l.Vertex] = &bytes.Buffer{}
		}
		log := s.logs[l.Vertex]
		log.Write(l.Data)
		if log.Len() > 1<<16 {
			log.Next(log.Len() - 1<<15)
		}
	}
	for _, w := range st.Warnings {
		place := s.b.o.Dockerfile
		if len(w.Range) > 0 {
			place = fmt.Sprintf("%s:%d", place, w.Range[0].Start.Line)
		}
		text := string(w.Short)
		if i := strings.LastIndex(text, " (line "); i > 0 {
			text = text[:i]
		}
		if _, shown := s.b.warnings.LoadOrStore(place+text, true); !shown {
			s.b.o.Event.Warn("", "", place+": "+text)
		}
	}
}

// log gives the last lines that the failed instruction wrote.
func (s *screen) log() []string {
	log := s.logs[s.failed]
	if log == nil {
		return nil
	}
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(log.String(), "\r", ""), "\n"), "\n")
	return lines[max(0, len(lines)-logLines):]
}
