// Package dockerfile turns a Dockerfile into a build graph for one platform,
// with BuildKit's own compiler: every instruction, flag and expansion means what
// it means in Docker, since it is the same code that reads it.
//
// It is the only package that imports BuildKit's compiler; what comes out are
// plain types.
package dockerfile

import (
	"github.com/anyarch/anyarch/internal/platform"
)

// Graph is what has to be done to make the image of one platform.
type Graph struct {
	Platform platform.Platform
	Ops      []*Op // inputs before those that use them
	Root     Edge  // the file system of the final stage; Op is nil for an empty one
	// Config is the image configuration without diff IDs, as JSON
	// (image-spec v1.1.1, config.md, with Docker's extensions Healthcheck,
	// OnBuild and Shell). Its history has one entry per instruction.
	Config   []byte
	Warnings []Warning
}

// Warning is a finding of BuildKit's linter.
type Warning struct {
	Rule, Detail, URL string
	Line              int
}

// Edge is one output of an operation. A nil Op is an empty file system.
type Edge struct {
	Op     *Op
	Output int
}

// Op is one operation: exactly one of Source, Exec, File and Merge is set.
type Op struct {
	// Self identifies the operation without its inputs and its platform: the
	// same on every platform if it is written the same after expansion.
	Self string
	// Key identifies the operation with everything below it.
	Key      string
	Inputs   []Edge
	Platform *platform.Platform // the one it runs for; nil if it has none
	Lines    []Range            // where it comes from in the Dockerfile
	Name     string             // such as [builder 3/7] RUN go build
	Stage    string             // the stage's name, or its number
	// IgnoreCache says that it is to be executed whatever earlier builds have left.
	IgnoreCache bool

	Source *Source
	Exec   *Exec
	File   []FileAction
	// Merge puts its inputs over one another, the first at the bottom, as layers
	// of an image are (COPY --link).
	Merge bool
}

// Range is lines of the Dockerfile, from 1, both ends included.
type Range struct{ Start, End int }

// Line is where the operation begins, 0 if that isn't known.
func (o *Op) Line() int {
	if len(o.Lines) == 0 {
		return 0
	}
	return o.Lines[0].Start
}

// Source is files that come from outside the build.
type Source struct {
	// Identifier is docker-image://REF@DIGEST, local://NAME, https://… or git://….
	Identifier string
	Attrs      map[string]string
	Local      *Local
	HTTP       *HTTP
	Image      string // the reference of docker-image
}

// Local is a part of a context on this machine.
type Local struct {
	Name                     string // context, or a named one
	Include, Exclude, Follow []string
}

// HTTP is a file to be downloaded.
type HTTP struct {
	URL      string
	Filename string
	Checksum string // sha256:…, or empty
	Mode     int    // 0 means 0600
	UID, GID int
}

// Exec is one RUN.
type Exec struct {
	Args    []string // with the shell
	Env     []string // KEY=value, in order
	Dir     string
	User    string
	Mounts  []Mount // the first is the root, /
	Network Network
	// SecretEnv are secrets that the command sees as variables.
	SecretEnv []SecretEnv
	Proxy     []string // KEY=value of proxies that were given as build arguments
	Hostname  string
	Insecure  bool // --security=insecure
	Devices   bool // --device
}

// Network is what a RUN may reach.
type Network string

// The networks.
const (
	NetworkDefault Network = ""
	NetworkHost    Network = "host"
	NetworkNone    Network = "none"
)

// MountKind is the kind of a mount.
type MountKind string

// The kinds of mounts.
const (
	MountBind   MountKind = "bind"
	MountCache  MountKind = "cache"
	MountSecret MountKind = "secret"
	MountSSH    MountKind = "ssh"
	MountTmpfs  MountKind = "tmpfs"
)

// Mount is a mount of a RUN.
type Mount struct {
	Kind     MountKind
	Input    int // index into the operation's inputs; -1 for none
	Selector string
	Target   string
	ReadOnly bool
	Output   int    // -1 if what is written is thrown away
	ID       string // of a cache or secret
	Sharing  string // of a cache: shared, private, locked
	UID, GID int    // of a secret
	Mode     uint32 // of a secret
	Optional bool   // of a secret
}

// SecretEnv is a secret in the environment.
type SecretEnv struct {
	ID, Name string
	Optional bool
}

// FileActionKind is what a file action does.
type FileActionKind string

// The kinds of file actions.
const (
	ActionCopy    FileActionKind = "copy"
	ActionMkfile  FileActionKind = "mkfile"
	ActionMkdir   FileActionKind = "mkdir"
	ActionRm      FileActionKind = "rm"
	ActionSymlink FileActionKind = "symlink"
)

// FileAction is one step of COPY, ADD or WORKDIR, as BuildKit's FileAction
// (solver/pb/ops.proto). Input and Secondary count the operation's inputs first
// and the results of its earlier actions after them; -1 is an empty file system.
type FileAction struct {
	Kind                     FileActionKind
	Input, Secondary, Output int

	Path    string // of mkfile, mkdir and rm; the new name of symlink; source of copy
	Dest    string // of copy; where a symlink leads
	Data    []byte // of mkfile
	Mode    int    // -1 to keep that of the source; of mkdir and mkfile always set
	ModeStr string // symbolic mode of copy
	Owner   *Owner
	// Timestamp is in nanoseconds since 1970; -1 for none.
	Timestamp int64

	MakeParents      bool // mkdir
	AllowNotFound    bool // rm
	AllowWildcard    bool // rm, copy
	FollowSymlink    bool
	DirCopyContents  bool
	AttemptUnpack    bool
	CreateDestPath   bool
	AllowEmpty       bool
	AlwaysReplace    bool
	Include, Exclude []string
	Required         []string
}

// Owner is who gets files. A name is looked up in the file system Input.
type Owner struct{ User, Group *Principal }

// Principal is a user or a group.
type Principal struct {
	Name  string // empty if ID counts
	Input int    // where the name is looked up; -1 for none
	ID    int
}
