// Command conformance runs the cases of clients/conformance, whose README tells what they say and what a runner reads
// from its environment.
//
//	go run ./conformance ../conformance
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"
)

const callDeadline = time.Minute

// The order in which the files are run.
var files = []string{"server", "record", "install", "download", "loader"}

// conformanceCase is one case as it stands in its file.
type conformanceCase struct {
	Name    string            `json:"name"`
	Method  string            `json:"method"`
	As      string            `json:"as"`
	At      string            `json:"at"`
	Request any               `json:"request"`
	Answer  any               `json:"answer"`
	Answers []any             `json:"answers"`
	Ends    bool              `json:"ends"`
	Error   map[string]any    `json:"error"`
	Keep    map[string]string `json:"keep"`
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("Say where the cases are: the folder clients/conformance.")
	}
	passed, failed, err := runAll(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func runAll(folder string) (passed, failed int, err error) {
	runner, err := newRunner()
	if err != nil {
		return 0, 0, err
	}
	defer runner.close()
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(folder, file+".json"))
		if err != nil {
			return passed, failed, err
		}
		var cases []conformanceCase
		if err := json.Unmarshal(text, &cases); err != nil {
			return passed, failed, fmt.Errorf("%s: %w", file, err)
		}
		for _, one := range cases {
			ctx, cancel := context.WithTimeout(context.Background(), callDeadline)
			if err := runner.run(ctx, one); err != nil {
				fmt.Printf("%s: %s: %v\n", file, one.Name, err)
				failed++
			} else {
				passed++
			}
			cancel()
		}
	}
	return passed, failed, nil
}
