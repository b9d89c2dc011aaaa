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
}

// suiteFile is what a running suite leaves in <data dir>/run/suite.json.
type suiteFile struct {
	Addresses map[Service]string `json:"addresses"`
	Sockets   map[Service]string `json:"sockets"`
}

// findAddresses says where each service is, by the first of: the Config's address, its data folder,
// MODELKEEP_CLIENT_<SERVICE>_ADDRESS, MODELKEEP_DATA_DIR, the suite in ./modelkeep-data, the default ports.
//
// Of a running suite its UNIX socket is taken; where that is out of reach, its port and the owner's token, which is
// shown nowhere else. Where a data folder is named, or a suite found, no other suite is called in its place.
func findAddresses(config Config, environment func(string) string) (map[Service]address, error) {
	folder := firstOf(config.DataDir, environment("MODELKEEP_DATA_DIR"))
	named := folder != ""
	if !named {
		folder = defaultDataDir
		if err := refuseStrangers(folder); err != nil {
			return nil, err
		}
	}
	suite, running := readSuite(folder)
	shown := config.token(environment)
	owners := tokenFile(filepath.Join(folder, "run", "tokens", "owner"))

	tokenFor := func(target string) tokenSource {
		for _, known := range suite.Addresses {
			if shown == nil && target == known && owners.readable() {
				return owners
			}
		}
		return shown
	}
	find := func(service Service) address {
		variable := "MODELKEEP_CLIENT_" + strings.ToUpper(string(service)) + "_ADDRESS"
		if target := config.Addresses[service]; target != "" {
			return address{target, "the caller", tokenFor(target)}
		}
		if target := environment(variable); target != "" && config.DataDir == "" {
			return address{target, "the environment variable " + variable, tokenFor(target)}
		}
		origin := filepath.Join(folder, "run", "suite.json")
		if path := suite.Sockets[service]; path != "" && writable(path) {
			return address{"unix:" + path, origin, shown}
		}
		if target := suite.Addresses[service]; target != "" {
			return address{target, origin, tokenFor(target)}
		}
		if running {
			return address{origin: fmt.Sprintf("the suite in %s runs without it", folder)}
		}
		if named {
			return address{origin: fmt.Sprintf("no suite runs on %s", folder)}
		}
		return address{defaultAddresses[service], "the default port", shown}
	}
	found := make(map[Service]address, len(defaultAddresses))
	for service := range defaultAddresses {
		found[service] = find(service)
	}
	return found, nil
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
