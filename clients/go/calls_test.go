package modelkeep

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	modelv1 "modelkeep.dev/go/modelkeep/model/v1"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

func get(ctx context.Context, client *Client) error {
	_, err := client.Records.GetModel(ctx, &recordv1.GetModelRequest{Key: "k"})
	return err
}

func TestACallEndsInTimeAndItsOwnDeadlineWins(t *testing.T) {
	var left time.Duration
	address := serve(t, &scripted{get: func(ctx context.Context) (*recordv1.GetModelResponse, error) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return &recordv1.GetModelResponse{}, nil
	}})
	longer, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, one := range []struct {
		name        string
		config      Config
		ctx         context.Context
		least, most time.Duration
	}{
		{"by default", Config{}, t.Context(), DefaultTimeout - 10*time.Second, DefaultTimeout},
		{"by the configuration", Config{Timeout: time.Minute}, t.Context(), 50 * time.Second, time.Minute},
		{"by the context", Config{Timeout: time.Minute}, longer, 59 * time.Minute, time.Hour},
	} {
		if err := get(one.ctx, dial(t, address, one.config)); err != nil || left < one.least || left > one.most {
			t.Errorf("%s: %v, %v", one.name, left, err)
		}
	}
	if err := get(t.Context(), dial(t, address, Config{Timeout: -1})); err != nil || left > 0 {
		t.Errorf("without a limit: %v, %v", left, err)
	}
}

func TestACallThatIsNotAnsweredIsOver(t *testing.T) {
	address := serve(t, &scripted{get: func(ctx context.Context) (*recordv1.GetModelResponse, error) {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
		return nil, ctx.Err()
	}})
	var failed *Error
	err := get(t.Context(), dial(t, address, Config{Timeout: 50 * time.Millisecond}))
	if !errors.As(err, &failed) || failed.Code != codes.DeadlineExceeded {
		t.Error(err)
	}
}

func TestACallIsRepeatedOnlyWhereItDoesNoHarmAndTellsWhatMakesIt(t *testing.T) {
	var gets, creates atomic.Int32
	away := status.Error(codes.Unavailable, "away")
	address := serve(t, &scripted{
		get: func(ctx context.Context) (*recordv1.GetModelResponse, error) {
			said, _ := metadata.FromIncomingContext(ctx)
			if agent := strings.Join(said["user-agent"], ""); !strings.HasPrefix(agent, "modelkeep-go") {
				t.Errorf("the user agent is %q", agent)
			}
			if gets.Add(1) < 4 {
				return nil, away
			}
			return &recordv1.GetModelResponse{}, nil
		},
		create: func(context.Context) (*recordv1.CreateModelResponse, error) {
			creates.Add(1)
			return nil, away
		},
	})
	client := dial(t, address, Config{})
	if err := get(t.Context(), client); err != nil || gets.Load() != 4 {
		t.Errorf("%d tries: %v", gets.Load(), err)
	}
	_, err := client.Records.CreateModel(t.Context(), &recordv1.CreateModelRequest{})
	if status.Code(err) != codes.Unavailable || creates.Load() != 1 {
		t.Errorf("%d tries: %v", creates.Load(), err)
	}
}

func put(name, token string) *recordv1.WatchModelsResponse {
	change := &recordv1.ModelEvent_Put{Put: &modelv1.Model{Name: name}}
	return &recordv1.WatchModelsResponse{Phase: serverv1.WatchPhase_WATCH_PHASE_LIVE, ResumeToken: token,
		Events: []*recordv1.ModelEvent{{Change: change}}}
}

func TestAWatchGoesOnFromItsLastPlaceAndLeavesNothingBehind(t *testing.T) {
	var asked []string
	ended := make(chan struct{})
	address := serve(t, &scripted{watch: func(request *recordv1.WatchModelsRequest,
		stream grpc.ServerStreamingServer[recordv1.WatchModelsResponse]) error {
		asked = append(asked, request.GetResumeToken())
		if len(asked) == 1 {
			return errors.Join(stream.Send(put("one", "a")), stream.Send(put("two", "b")))
		}
		if err := stream.Send(put("three", "c")); err != nil {
			return err
		}
		<-stream.Context().Done()
		close(ended)
		return nil
	}})
	client := dial(t, address, Config{})
	_ = get(t.Context(), client) // the connection, and what it needs, is there
	before := len(goroutines())
	var names []string
	for frame, err := range client.WatchModels(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, frame.Events[0].GetPut().GetName())
		if len(names) == 3 {
			break
		}
	}
	<-ended
	if got := strings.Join(names, " ") + "; " + strings.Join(asked, " "); got != "one two three;  b" {
		t.Error(got)
	}
	settles(t, before)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := get(t.Context(), client); err == nil {
		t.Error("a client that is closed calls")
	}
}

func TestAWatchEndsWithItsContextAndSaysSo(t *testing.T) {
	address := serve(t, &scripted{watch: func(_ *recordv1.WatchModelsRequest,
		stream grpc.ServerStreamingServer[recordv1.WatchModelsResponse]) error {
		if err := stream.Send(put("one", "a")); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "away")
	}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range dial(t, address, Config{}).WatchModels(ctx, nil) {
		time.AfterFunc(20*time.Millisecond, cancel)
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Error(last)
	}
}

func TestAReplacedCertificateIsShownByNewCallsWhileAStreamGoesOn(t *testing.T) {
	authority := newAuthority(t)
	var caller string
	seen := make(chan string, 1)
	more := make(chan struct{})
	address := serve(t, &scripted{
		get: func(ctx context.Context) (*recordv1.GetModelResponse, error) {
			caller = callerOf(ctx)
			return &recordv1.GetModelResponse{}, nil
		},
		watch: func(_ *recordv1.WatchModelsRequest,
			stream grpc.ServerStreamingServer[recordv1.WatchModelsResponse]) error {
			seen <- callerOf(stream.Context())
			for err := error(nil); err == nil; <-more {
				err = stream.Send(put("one", "a"))
			}
			return nil
		},
	}, authority.secured(t))
	folder := t.TempDir()
	client := dial(t, address, Config{TLS: authority.put(t, folder, "first"), Token: "shown over TLS only"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := client.Records.WatchModels(ctx, &recordv1.WatchModelsRequest{})
	if err != nil || <-seen != "first" {
		t.Fatal(err)
	}

	authority.put(t, folder, "second")
	time.Sleep(lookInterval)
	if err := get(t.Context(), client); err != nil || caller != "second" {
		t.Errorf("called as %s: %v", caller, err)
	}
	if open := len(client.connections[Record].all); open != 2 {
		t.Errorf("%d connections", open)
	}
	for range 3 { // the stream goes on as it is
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		more <- struct{}{}
	}
	// What is no good is not taken, and what was there stays.
	replace(t, folder+"/pair.pem", []byte("half a file"))
	time.Sleep(lookInterval)
	if err := get(t.Context(), client); err != nil || caller != "second" {
		t.Errorf("called as %s: %v", caller, err)
	}

	cancel()
	close(more)
	for err = nil; err == nil; _, err = stream.Recv() {
	}
	if errors.Is(err, io.EOF) {
		t.Error("the stream ended by itself")
	}
	client.connections[Record].lock.Lock()
	defer client.connections[Record].lock.Unlock()
	if open := len(client.connections[Record].all); open != 1 {
		t.Errorf("the connection of the first certificate is kept: %d", open)
	}
}

func TestWhatTLSRefusesIsSaidWithWhatHelps(t *testing.T) {
	one, another := newAuthority(t), newAuthority(t)
	secured := serve(t, &scripted{}, one.secured(t))
	plain := serve(t, &scripted{})
	shown := one.put(t, t.TempDir(), "caller")
	elsewhere := shown
	elsewhere.ServerName = "models.example.com"
	for _, wrong := range []struct {
		address, says string
		files         TLSFiles
	}{
		{secured, "Config.TLS.CA", TLSFiles{CA: another.put(t, t.TempDir(), "").CA, ServerName: "localhost"}},
		{secured, "Config.TLS.ServerName", elsewhere},
		{secured, "If it wants a certificate", TLSFiles{CA: shown.CA, ServerName: "localhost"}},
		{secured, "If it speaks TLS", TLSFiles{}},
		{plain, "have the service speak TLS", shown},
	} {
		err := get(t.Context(), dial(t, wrong.address, Config{TLS: wrong.files}))
		if err == nil || !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%s is not in: %v", wrong.says, err)
		}
	}
	for _, files := range []TLSFiles{{Cert: shown.Cert}, {CA: "/none"}, {CA: shown.CA, Cert: shown.CA}} {
		if _, err := Dial(Config{DataDir: t.TempDir(), TLS: files}); err == nil || !strings.Contains(err.Error(), "Config.TLS") {
			t.Errorf("%+v: %v", files, err)
		}
	}
}

func TestAServiceThatDiesDuringACallIsNoTroubleOfTLS(t *testing.T) {
	dies := &scripted{}
	dies.create = func(ctx context.Context) (*recordv1.CreateModelResponse, error) {
		go dies.die()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	client := dial(t, serve(t, dies), Config{})
	_, err := client.Records.CreateModel(t.Context(), &recordv1.CreateModelRequest{})
	var failed *Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Remedy(), "Start the suite") {
		t.Error(err)
	}
}
