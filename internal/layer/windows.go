package layer

import (
	"archive/tar"
	"encoding/base64"
	"encoding/binary"
	"strconv"
)

// PAX records in which a layer for Windows carries what tar has no field for.
// The importer in containerd, hcsshim's package backuptar, reads them; without
// a security descriptor a program may not be run by the container's user.
const (
	windowsAttributes = "MSWINDOWS.fileattr" // decimal
	windowsSecurity   = "MSWINDOWS.rawsd"    // base64 of a self-relative SECURITY_DESCRIPTOR
)

// File attributes of Windows (MS-FSCC 2.6).
const (
	attributeDirectory = 16
	attributeArchive   = 32
)

func describeWindows(h *tar.Header) {
	root := h.Name == windowsFiles+"/" || h.Name == windowsHives+"/"
	switch {
	case root: // the root of the drive keeps the base's descriptor
		h.PAXRecords[windowsAttributes] = strconv.Itoa(attributeDirectory)
	case h.Typeflag == tar.TypeDir:
		h.PAXRecords[windowsAttributes] = strconv.Itoa(attributeDirectory)
		h.PAXRecords[windowsSecurity] = descriptor(directoryACL)
	case h.Typeflag == tar.TypeReg:
		h.PAXRecords[windowsAttributes] = strconv.Itoa(attributeArchive)
		h.PAXRecords[windowsSecurity] = descriptor(fileACL)
	}
}

// sid is a security identifier in binary form (MS-DTYP 2.4.2.2).
type sid []byte

func newSID(authority byte, parts ...uint32) sid {
	s := sid{1, byte(len(parts)), 0, 0, 0, 0, 0, authority}
	for _, part := range parts {
		s = binary.LittleEndian.AppendUint32(s, part)
	}
	return s
}

// ace lets somebody do something (MS-DTYP 2.4.4.2, ACCESS_ALLOWED_ACE).
type ace struct {
	flags byte
	mask  uint32
	who   sid
}

// Rights and inheritance of an ace.
const (
	fullAccess   = 0x1f01ff
	readExecute  = 0x1200a9
	addDirectory = 0x4
	addFile      = 0x2
	genericAll   = 0x10000000

	toFiles       = 0x1
	toDirectories = 0x2
	onlyInherited = 0x8
)

func administrators() sid { return newSID(5, 32, 544) }
func users() sid          { return newSID(5, 32, 545) }
func system() sid         { return newSID(5, 18) }
func creator() sid        { return newSID(3, 0) }

// fileACL lets administrators do everything and users read and run a file:
// D:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU). A program that its own user
// can't overwrite is the reason not to do as ko does, which gives no list at
// all and so every right to everybody.
func fileACL() []ace {
	return []ace{
		{0, fullAccess, administrators()},
		{0, fullAccess, system()},
		{0, readExecute, users()},
	}
}

// directoryACL is that of directories which Windows itself makes below the root
// of a drive: users may read, and make files and directories of their own.
func directoryACL() []ace {
	const all = toFiles | toDirectories
	return []ace{
		{all, fullAccess, administrators()},
		{all, fullAccess, system()},
		{0, fullAccess, administrators()},
		{all | onlyInherited, genericAll, creator()},
		{all, readExecute, users()},
		{toDirectories, addDirectory, users()},
		{toDirectories, addFile, users()},
	}
}

// descriptor is the security descriptor with owner administrators, group
// system and an access control list (MS-DTYP 2.4.6 and 2.4.5), in base64.
func descriptor(acl func() []ace) string {
	const (
		headerSize   = 20
		selfRelative = 0x8000
		hasDACL      = 0x0004
	)
	var aces []byte
	list := acl()
	for _, a := range list {
		aces = append(aces, 0, a.flags) // type 0: allowed
		aces = binary.LittleEndian.AppendUint16(aces, uint16(8+len(a.who)))
		aces = binary.LittleEndian.AppendUint32(aces, a.mask)
		aces = append(aces, a.who...)
	}
	owner, group := administrators(), system()
	b := []byte{1, 0}
	b = binary.LittleEndian.AppendUint16(b, selfRelative|hasDACL)
	b = binary.LittleEndian.AppendUint32(b, headerSize)
	b = binary.LittleEndian.AppendUint32(b, uint32(headerSize+len(owner)))
	b = binary.LittleEndian.AppendUint32(b, 0) // no system list
	b = binary.LittleEndian.AppendUint32(b, uint32(headerSize+len(owner)+len(group)))
	b = append(append(b, owner...), group...)
	b = append(b, 2, 0) // revision of the list
	b = binary.LittleEndian.AppendUint16(b, uint16(8+len(aces)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(list)))
	b = append(append(b, 0, 0), aces...)
	return base64.StdEncoding.EncodeToString(b)
}
