package modelkeep

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Between two looks at the files of TLS.
const lookInterval = time.Second

// TLSFiles are the files, in PEM, of who calls by TLS. They are looked at once a second while there are calls: once they
// were replaced, new calls go by a new connection, and those under way go on as they are. Files that are no good then
// leave in use what was there before.
type TLSFiles struct {
	// CA has the authorities whose word for a service is taken. Without it nothing is called by TLS.
	CA string
	// Cert is the caller's own certificate, with those between it and its authority; without it none is shown.
	Cert string
	// Key is its private key, without a passphrase; without it the key stands in Cert.
	Key string
	// ServerName is the host that the certificates of services are for, where they are called by another one.
	ServerName string
}

// filledFrom is the same with what the environment names for what is not said.
func (files TLSFiles) filledFrom(environment func(string) string) TLSFiles {
	files.CA = firstOf(files.CA, environment("MODELKEEP_CA_FILE"))
	files.Cert = firstOf(files.Cert, environment("MODELKEEP_CERT_FILE"))
	files.Key = firstOf(files.Key, environment("MODELKEEP_KEY_FILE"))
	return files
}

func (files TLSFiles) read() (credentials.TransportCredentials, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool(), ServerName: files.ServerName}
	text, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("the authorities cannot be read: %w", err)
	}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificates as PEM", files.CA)
	}
	if files.Cert != "" {
		pair, err := tls.LoadX509KeyPair(files.Cert, firstOf(files.Key, files.Cert))
		if err != nil {
			return nil, fmt.Errorf("%s is no certificate, or has another key: %w", files.Cert, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

// states tells one state of the files from another.
func (files TLSFiles) states() []fileState {
	states := make([]fileState, 0, 3)
	for _, path := range []string{files.CA, files.Cert, files.Key} {
		var state fileState
		if found, err := os.Stat(path); err == nil {
			state = fileState{found.ModTime(), found.Size(), inodeOf(found)}
		}
		states = append(states, state)
	}
	return states
}

type fileState struct {
	modified time.Time
	size     int64
	inode    uint64
}

// callerTLS is how services are called by TLS: by what the files say now.
type callerTLS struct {
	files TLSFiles

	lock   sync.Mutex
	looked time.Time
	seen   []fileState
	shown  credentials.TransportCredentials
}

// newCallerTLS reads the files; nil where no authorities are named.
func newCallerTLS(files TLSFiles) (*callerTLS, error) {
	if files.CA == "" {
		if files.Cert != "" || files.Key != "" {
			return nil, fmt.Errorf("a certificate is shown over TLS, for which the authorities of the services have to " +
				"be known: name them by Config.TLS.CA or MODELKEEP_CA_FILE")
		}
		return nil, nil
	}
	made := &callerTLS{files: files, looked: time.Now(), seen: files.states()}
	var err error
	if made.shown, err = files.read(); err != nil {
		return nil, fmt.Errorf("%w: name others by Config.TLS, or MODELKEEP_CA_FILE, MODELKEEP_CERT_FILE and "+
			"MODELKEEP_KEY_FILE", err)
	}
	return made, nil
}

// current are the credentials of the files as they were within the last second: the same value until they change.
func (caller *callerTLS) current() credentials.TransportCredentials {
	caller.lock.Lock()
	defer caller.lock.Unlock()
	if time.Since(caller.looked) < lookInterval {
		return caller.shown
	}
	caller.looked = time.Now()
	seen := caller.files.states()
	if slices.Equal(seen, caller.seen) {
		return caller.shown
	}
	made, err := caller.files.read()
	switch {
	case !slices.Equal(seen, caller.files.states()):
		// They are being replaced just now; the next look has all of one time.
	case err != nil:
		caller.seen = seen
		slog.Warn("modelkeep: what was there before is shown", "error", err)
	default:
		caller.seen, caller.shown = seen, made
	}
	return caller.shown
}
