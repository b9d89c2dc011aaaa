//go:build unix

package modelkeep

import (
	"os"
	"syscall"
)

const writeAccess = 2 // W_OK

// ownerOf is the user that a file belongs to; of a link, that of the link.
func ownerOf(path string) (uid int, known bool) {
	found, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	if status, is := found.Sys().(*syscall.Stat_t); is {
		return int(status.Uid), true
	}
	return 0, false
}

// inodeOf is the number of a file in its file system.
func inodeOf(found os.FileInfo) uint64 {
	if status, is := found.Sys().(*syscall.Stat_t); is {
		return uint64(status.Ino)
	}
	return 0
}

// writable says whether this user may write to a file, or connect to a socket.
func writable(path string) bool { return syscall.Access(path, writeAccess) == nil }
