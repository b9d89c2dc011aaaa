//go:build !unix

package modelkeep

import "os"

// inodeOf is not known here.
func inodeOf(os.FileInfo) uint64 { return 0 }

// ownerOf is not known here.
func ownerOf(string) (uid int, known bool) { return 0, false }

// writable says no: suites have no UNIX sockets here.
func writable(string) bool { return false }
