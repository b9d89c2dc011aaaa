//go:build !unix

package modelkeep

// ownerOf is not known here.
func ownerOf(string) (uid int, known bool) { return 0, false }

// writable says no: suites have no UNIX sockets here.
func writable(string) bool { return false }
