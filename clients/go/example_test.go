package modelkeep_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"modelkeep.dev/go"
	modelv1 "modelkeep.dev/go/modelkeep/model/v1"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

// shelf is a RecordService with one model, in place of the one that a suite runs.
type shelf struct {
	recordv1.UnimplementedRecordServiceServer
}

func (shelf) GetModel(context.Context, *recordv1.GetModelRequest) (*recordv1.GetModelResponse, error) {
	said := status.New(codes.NotFound, "There is no model of this key.")
	said, err := said.WithDetails(&errdetails.ErrorInfo{Reason: "UNKNOWN_MODEL", Domain: "record.modelkeep.dev",
		Metadata: map[string]string{"remedy": "ListModels shows the models that there are."}})
	return nil, errors.Join(said.Err(), err)
}

func (shelf) WatchModels(
	_ *recordv1.WatchModelsRequest, stream grpc.ServerStreamingServer[recordv1.WatchModelsResponse],
) error {
	put := &recordv1.ModelEvent_Put{Put: &modelv1.Model{Name: "ink"}}
	return stream.Send(&recordv1.WatchModelsResponse{Phase: serverv1.WatchPhase_WATCH_PHASE_SNAPSHOT,
		SnapshotComplete: true, ResumeToken: "1", Events: []*recordv1.ModelEvent{{Change: put}}})
}

// runShelf runs it where Dial finds it, until stop is called.
func runShelf() (stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	recordv1.RegisterRecordServiceServer(server, shelf{})
	go server.Serve(listener)
	os.Setenv("MODELKEEP_CLIENT_RECORD_ADDRESS", listener.Addr().String())
	return func() {
		server.Stop()
		os.Unsetenv("MODELKEEP_CLIENT_RECORD_ADDRESS")
	}
}

// Services on other machines are called by TLS, with a certificate of one's own where they want one.
func ExampleDial() {
	client, err := modelkeep.Dial(modelkeep.Config{
		Gateway:   "models.example.com:443",
		TokenFile: "/var/run/secrets/modelkeep/token",
		TLS:       modelkeep.TLSFiles{CA: "/etc/modelkeep/ca.pem", Cert: "/etc/modelkeep/tls.crt", Key: "/etc/modelkeep/tls.key"},
		Timeout:   10 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

// An error is asked for its reason; it has more to say by errors.As.
func ExampleError() {
	defer runShelf()()
	client, err := modelkeep.Dial(modelkeep.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	_, err = client.Records.GetModel(context.Background(), &recordv1.GetModelRequest{Key: "0123"})
	if errors.Is(err, modelkeep.UnknownModel) {
		fmt.Println("not there")
	}
	var failed *modelkeep.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Code, failed.Remedy())
	}
	// Output:
	// not there
	// NotFound ListModels shows the models that there are.
}

// A watch is a loop, which ends it when it is left.
func ExampleClient_WatchModels() {
	defer runShelf()()
	client, err := modelkeep.Dial(modelkeep.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for frame, err := range client.WatchModels(context.Background(), &recordv1.WatchModelsRequest{}) {
		if err != nil {
			log.Fatal(err)
		}
		for _, event := range frame.Events {
			fmt.Println(event.GetPut().GetName())
		}
		if frame.SnapshotComplete {
			break
		}
	}
	// Output: ink
}
