package basic

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/anyarch/anyarch/internal/filetree"
	"github.com/anyarch/anyarch/internal/native/command"
)

// File capabilities are the extended attribute security.capability, of revision 2
// (capabilities(7), linux/capability.h); their text is that of cap_from_text(3).

func capabilityCommands() []*command.Command {
	return []*command.Command{
		tool("setcap", command.Options{Short: "qr"}, setcap),
		tool("getcap", command.Options{}, getcap),
	}
}

const capabilityXattr = "security.capability"

// capabilities by their numbers (linux/capability.h).
var capabilities = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
	linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
	sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
	audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon
	bpf checkpoint_restore`)

// capSets are the sets of capabilities of a file, as bits.
type capSets struct{ effective, permitted, inheritable uint64 }

// parseCapabilities reads a text such as cap_net_bind_service,cap_net_raw=+ep.
func parseCapabilities(text string) (capSets, error) {
	var s capSets
	all := uint64(1)<<len(capabilities) - 1
	for _, clause := range strings.Fields(text) {
		at := strings.IndexAny(clause, "=+-")
		if at < 0 {
			return s, fmt.Errorf("no operator in %s", clause)
		}
		var mask uint64
		names := strings.ToLower(clause[:at])
		if names == "" && clause[at] == '=' {
			names = "all"
		}
		for name := range strings.SplitSeq(names, ",") {
			if name == "all" {
				mask = all
				continue
			}
			n := slices.Index(capabilities, strings.TrimPrefix(name, "cap_"))
			if n < 0 || !strings.HasPrefix(name, "cap_") {
				return s, fmt.Errorf("no capability %s", name)
			}
			mask |= 1 << n
		}
		for rest := clause[at:]; rest != ""; {
			operator := rest[0]
			if !strings.ContainsRune("=+-", rune(operator)) {
				return s, fmt.Errorf("no operator at %s", rest)
			}
			rest = rest[1:]
			end := strings.IndexAny(rest, "=+-")
			if end < 0 {
				end = len(rest)
			}
			flags := rest[:end]
			rest = rest[end:]
			if strings.Trim(flags, "eip") != "" {
				return s, fmt.Errorf("no flags %s", flags)
			}
			if operator == '=' {
				s.effective, s.permitted, s.inheritable = s.effective&^mask, s.permitted&^mask, s.inheritable&^mask
			}
			for _, set := range []struct {
				flag string
				bits *uint64
			}{{"e", &s.effective}, {"p", &s.permitted}, {"i", &s.inheritable}} {
				switch {
				case !strings.Contains(flags, set.flag):
				case operator == '-':
					*set.bits &^= mask
				default:
					*set.bits |= mask
				}
			}
		}
	}
	return s, nil
}

// encode makes the attribute. The kernel has one bit for the effective set, so it has
// to be all of the others or nothing.
func (s capSets) encode() (string, bool) {
	both := s.permitted | s.inheritable
	magic := uint32(0x02000000)
	if s.effective != 0 {
		if s.effective != both {
			return "", false
		}
		magic |= 1
	}
	var b []byte
	for _, v := range []uint32{magic, uint32(s.permitted), uint32(s.inheritable), uint32(s.permitted >> 32), uint32(s.inheritable >> 32)} { //nolint:gosec // halves
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return string(b), true
}

// setcap is setcap(8): setcap [-q] TEXT FILE…, setcap -r FILE….
func setcap(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	args, value, remove := opt.Args, "", opt.Has["r"]
	for len(args) > 0 {
		if !remove {
			if len(args) < 2 {
				_, _ = fmt.Fprintln(p.Stderr, "usage: setcap [-h] [-q] [-v] [-n <rootid>] (-r|-|<caps>) <filename> [ ... (-r|-|<capsN>) <filenameN> ]")
				return 1, nil
			}
			if args[0] == "-" {
				return 0, &command.Unsupported{Command: "setcap", What: "capabilities from standard input"}
			}
			sets, err := parseCapabilities(args[0])
			if err != nil {
				_, _ = fmt.Fprintln(p.Stderr, "fatal error: Invalid argument")
				return 1, nil //nolint:nilerr // it is said as setcap says it
			}
			var ok bool
			if value, ok = sets.encode(); !ok {
				_, _ = fmt.Fprintf(p.Stderr, "Failed to set capabilities on file '%s': Invalid argument\n", args[1])
				return 1, nil
			}
			args = args[1:]
		}
		name := p.Path(args[0])
		a, err := p.Tree.Lstat(name)
		switch {
		case err != nil && fatal(err):
			return 0, err
		case err != nil:
			_, _ = fmt.Fprintf(p.Stderr, "Failed to set capabilities on file '%s': %s\n", args[0], reason(err))
			return 1, nil
		case !a.IsRegular():
			_, _ = fmt.Fprintf(p.Stderr, "Invalid file '%s' for capability operation\n", args[0])
			return 1, nil
		case p.UID != 0:
			_, _ = fmt.Fprintln(p.Stderr, "unable to set CAP_SETFCAP effective capability: Operation not permitted")
			return 1, nil
		}
		if err := p.Tree.Update(name, false, func(b *filetree.Attr) {
			xattrs := map[string]string{}
			for k, v := range b.Xattrs {
				xattrs[k] = v
			}
			delete(xattrs, capabilityXattr)
			if !remove {
				xattrs[capabilityXattr] = value
			}
			b.Xattrs = xattrs
		}); err != nil {
			return 0, err
		}
		args = args[1:]
	}
	return 0, nil
}

// getcap is getcap(8) for files.
func getcap(_ context.Context, p *command.Proc, opt *command.Parsed) (int, error) {
	for _, arg := range opt.Args {
		a, err := p.Tree.Lstat(p.Path(arg))
		if err != nil {
			if fatal(err) {
				return 0, err
			}
			_, _ = fmt.Fprintf(p.Stderr, "%s (%s)\n", arg, reason(err))
			continue
		}
		value := []byte(a.Xattrs[capabilityXattr])
		if len(value) < 20 {
			continue
		}
		word := func(i int) uint64 { return uint64(binary.LittleEndian.Uint32(value[4*i:])) }
		permitted, inheritable := word(1)|word(3)<<32, word(2)|word(4)<<32
		// Capabilities with the same flags are one clause.
		clauses := map[string][]string{}
		var order []string
		for n, name := range capabilities {
			flags := ""
			if word(0)&1 != 0 && (permitted|inheritable)>>n&1 != 0 {
				flags += "e"
			}
			if inheritable>>n&1 != 0 {
				flags += "i"
			}
			if permitted>>n&1 != 0 {
				flags += "p"
			}
			if flags == "" {
				continue
			}
			if clauses[flags] == nil {
				order = append(order, flags)
			}
			clauses[flags] = append(clauses[flags], "cap_"+name)
		}
		var parts []string
		for _, flags := range order {
			parts = append(parts, strings.Join(clauses[flags], ",")+"="+flags)
		}
		_, _ = fmt.Fprintf(p.Stdout, "%s %s\n", arg, strings.Join(parts, " "))
	}
	return 0, nil
}
