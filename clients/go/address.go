package modelkeep

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Service is the short name of one of the four services.
type Service string

// The services of a suite.
const (
	Record   Service = "record"
	Download Service = "download"
	Install  Service = "install"
	Loader   Service = "loader"
)

// Where the services listen when they are not told otherwise.
var defaultAddresses = map[Service]string{
	Record:   "127.0.0.1:50051",
	Download: "127.0.0.1:50052",
	Install:  "127.0.0.1:50053",
	Loader:   "127.0.0.1:50054",
}

const defaultDataDir = "modelkeep-data"

// address is where a service is called.
type address struct {
	target string // host:port or unix:/path; empty where there is none
	origin string // who said so, for errors
	token  tokenSource
	tls    *callerTLS // nil for plaintext
	folder string     // of ServerService, which all services have, at a gateway
}

// isLocal says whether it is a UNIX socket.
func (found address) isLocal() bool { return strings.HasPrefix(found.target, "unix:") }

// suiteFile is what a running suite leaves in <data dir>/run/suite.json.
type suiteFile struct {
	Addresses map[Service]string `json:"addresses"`
	Sockets   map[Service]string `json:"sockets"`
	// Certs is the folder of certificates that the services show over TCP; empty for plaintext.
	Certs string `json:"certs"`
}

// findAddresses says where each service is, by the first of: the Config's address, its data folder,
// MODELKEEP_CLIENT_<SERVICE>_ADDRESS, MODELKEEP_DATA_DIR, the suite in ./modelkeep-data, the default ports.
//
// Config.Gateway comes before all of them. Of a running suite its UNIX socket is taken; where that is out of reach, its
// port and the owner's token, which is shown nowhere else. Where a data folder is named, or a suite found, no other
// suite is called in its place.
func findAddresses(config Config, environment func(string) string) (map[Service]address, error) {
	var secured *callerTLS
	if config.Credentials == nil {
		var err error
		if secured, err = newCallerTLS(config.TLS.filledFrom(environment)); err != nil {
			return nil, err
		}
	}
	shown := config.token(environment)
	if config.Gateway != "" {
		return atGateway(address{target: config.Gateway, origin: "the caller", token: shown, tls: secured}), nil
	}
	folder := firstOf(config.DataDir, environment("MODELKEEP_DATA_DIR"))
	named := folder != ""
	if !named {
		folder = defaultDataDir
		if err := refuseStrangers(folder); err != nil {
			return nil, err
		}
	}
	suite, running := readSuite(folder)
	owners := tokenFile(filepath.Join(folder, "run", "tokens", "owner"))

	tokenFor := func(target string) tokenSource {
		for _, known := range suite.Addresses {
			if shown == nil && target == known && owners.readable() {
				return owners
			}
		}
		return shown
	}
	find := func(service Service) (address, error) {
		variable := "MODELKEEP_CLIENT_" + strings.ToUpper(string(service)) + "_ADDRESS"
		if target := config.Addresses[service]; target != "" {
			return address{target: target, origin: "the caller", token: tokenFor(target), tls: secured}, nil
		}
		if target := environment(variable); target != "" && config.DataDir == "" {
			origin := "the environment variable " + variable
			return address{target: target, origin: origin, token: tokenFor(target), tls: secured}, nil
		}
		origin := filepath.Join(folder, "run", "suite.json")
		if path := suite.Sockets[service]; path != "" && writable(path) {
			return address{target: "unix:" + path, origin: origin, token: shown}, nil
		}
		if target := suite.Addresses[service]; target != "" {
			found := address{target: target, origin: origin, token: tokenFor(target), tls: secured}
			var err error
			if secured == nil && suite.Certs != "" && config.Credentials == nil {
				found.tls, err = newCallerTLS(ownTLS(suite.Certs))
			}
			return found, err
		}
		if running {
			return address{origin: fmt.Sprintf("the suite in %s runs without it", folder)}, nil
		}
		if named {
			return address{origin: fmt.Sprintf("no suite runs on %s", folder)}, nil
		}
		return address{target: defaultAddresses[service], origin: "the default port", token: shown, tls: secured}, nil
	}
	found := make(map[Service]address, len(defaultAddresses))
	for service := range defaultAddresses {
		at, err := find(service)
		if err != nil {
			return nil, err
		}
		if at.isLocal() {
			at.tls = nil
		}
		found[service] = at
	}
	return found, nil
}

// ownTLS is how the owner of a suite calls it by TLS, whose folder of certificates is one of `modelkeep certs dev`.
func ownTLS(certs string) TLSFiles {
	return TLSFiles{CA: filepath.Join(certs, "ca.pem"), Cert: filepath.Join(certs, "client.pem"),
		Key: filepath.Join(certs, "client.key")}
}

// atGateway is the one address of a gateway for each service.
func atGateway(gateway address) map[Service]address {
	found := make(map[Service]address, len(defaultAddresses))
	for service := range defaultAddresses {
		gateway.folder = string(service)
		found[service] = gateway
	}
	return found
}

// readSuite is the running suite of a data folder. One that was killed leaves its file behind, so what it says is a
// hint and no promise.
func readSuite(folder string) (suite suiteFile, running bool) {
	text, err := os.ReadFile(filepath.Join(folder, "run", "suite.json"))
	if err != nil || json.Unmarshal(text, &suite) != nil {
		return suiteFile{}, false
	}
	return suite, true
}

// refuseStrangers is an error where the suite that merely lies where the program stands is another user's: anybody
// may have put it there.
func refuseStrangers(folder string) error {
	var owners []int
	for _, path := range []string{folder, filepath.Join(folder, "run"), filepath.Join(folder, "run", "suite.json")} {
		uid, known := ownerOf(path)
		if !known {
			return nil // there is none that could be read
		}
		owners = append(owners, uid)
	}
	for _, uid := range owners {
		if uid != 0 && uid != os.Geteuid() {
			return fmt.Errorf("the suite in %s is of another user (uid %d) and not called unasked: if you mean it, "+
				"say so by Config.DataDir or MODELKEEP_DATA_DIR=%s", folder, uid, folder)
		}
	}
	return nil
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
