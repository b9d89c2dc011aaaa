package modelkeep

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "modelkeep.dev/go/modelkeep/errors/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

func none(string) string { return "" }

func TestEveryReasonHasItsConstant(t *testing.T) {
	text, err := os.ReadFile("reasons_generated.go")
	if err != nil {
		t.Fatal(err)
	}
	for number, name := range errorsv1.ErrorReason_name {
		if word := strings.TrimPrefix(name, "ERROR_REASON_"); number != 0 && !strings.Contains(string(text), `"`+word+`"`) {
			t.Errorf("%s has none", word)
		}
	}
}

func TestOnlyWhatDoesNoHarmIsRepeated(t *testing.T) {
	var config struct {
		MethodConfig []struct {
			Name []struct{ Service, Method string }
		}
	}
	if err := json.Unmarshal([]byte(serviceConfig), &config); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range config.MethodConfig[0].Name {
		names = append(names, name.Service+"/"+name.Method)
	}
	for method, repeated := range map[string]bool{
		"modelkeep.record.v1.RecordService/GetModel":       true,
		"modelkeep.loader.v1.LoaderService/ReleaseLease":   true,
		"modelkeep.record.v1.RecordService/CreateModel":    false,
		"modelkeep.loader.v1.LoaderService/AcquireLease":   false,
		"modelkeep.record.v1.RecordService/WatchModels":    false,
		"modelkeep.server.v1.ServerService/GetServerInfo":  true,
		"modelkeep.install.v1.InstallService/RegisterPath": false,
	} {
		if slices.Contains(names, method) != repeated {
			t.Errorf("%s: repeated is %v", method, !repeated)
		}
	}
}

func TestAnErrorIsFoundByItsReasonThroughWrapping(t *testing.T) {
	err := fmt.Errorf("install: %w", FromJob(&serverv1.JobError{Code: "DATA_LOSS", Reason: "CHECKSUM_MISMATCH",
		Message: "It is another file", Metadata: map[string]string{"remedy": "Fetch it anew."}}))
	var failed *Error
	if !errors.Is(err, ChecksumMismatch) || errors.Is(err, UnknownModel) || !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if status.Code(err) != codes.DataLoss || failed.Error() != "It is another file. Fetch it anew." {
		t.Error(status.Code(err), failed)
	}
	if FromJob(nil) != nil || errors.Is(&Error{}, Reason("")) {
		t.Error("an error without a reason has none")
	}
}

func TestASuiteIsFoundByItsDescription(t *testing.T) {
	folder := t.TempDir()
	socket := filepath.Join(folder, "record.sock")
	write(t, socket, "")
	write(t, filepath.Join(folder, "run", "tokens", "owner"), "secret\n")
	write(t, filepath.Join(folder, "run", "suite.json"), fmt.Sprintf(
		`{"addresses": {"record": "127.0.0.1:1", "install": "127.0.0.1:2"}, "sockets": {"record": %q}}`, socket))
	found, err := findAddresses(Config{DataDir: folder}, none)
	if err != nil {
		t.Fatal(err)
	}
	if got := found[Record]; got.target != "unix:"+socket || got.token != nil {
		t.Errorf("record: %+v", got)
	}
	if got := found[Install]; got.target != "127.0.0.1:2" {
		t.Errorf("install: %+v", got)
	} else if token, err := got.token.token(); token != "secret" || err != nil {
		t.Errorf("the owner's token is %q, %v", token, err)
	}
	if got := found[Loader]; got.target != "" || !strings.Contains(got.origin, "runs without it") {
		t.Errorf("loader: %+v", got)
	}
}

func TestAnAddressComesFromTheFirstThatNamesOne(t *testing.T) {
	environment := func(name string) string {
		return map[string]string{"MODELKEEP_CLIENT_RECORD_ADDRESS": "there:1"}[name]
	}
	t.Chdir(t.TempDir())
	given := map[Service]string{Download: "here:2"}
	found, err := findAddresses(Config{Addresses: given, Token: "shown"}, environment)
	if err != nil {
		t.Fatal(err)
	}
	for service, target := range map[Service]string{
		Record: "there:1", Download: "here:2", Install: "127.0.0.1:50053", Loader: "127.0.0.1:50054",
	} {
		if got := found[service]; got.target != target || got.token != tokenText("shown") {
			t.Errorf("%s: %+v", service, got)
		}
	}
	named, err := findAddresses(Config{DataDir: t.TempDir()}, environment)
	if err != nil || named[Record].target != "" {
		t.Errorf("a data folder that is named comes before the environment: %+v, %v", named[Record], err)
	}
}

func TestAnAbsenceEndsWithPatience(t *testing.T) {
	away := absence{patience: 200 * time.Millisecond}
	tries := 0
	for away.wait(t.Context(), errors.New("away")) {
		tries++
	}
	if tries == 0 || tries > 5 {
		t.Errorf("%d tries in a fifth of a second", tries)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
