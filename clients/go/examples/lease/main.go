// Command lease holds a model in the loader's memory until Ctrl-C, and then lets it go.
//
//	go run ./examples/lease KEY
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"modelkeep.dev/go"
	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("Say which model: its key.")
	}
	if err := hold(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func hold(key string) error {
	client, err := modelkeep.Dial(modelkeep.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	lease, err := client.Hold(context.Background(), &loaderv1.HoldModelRequest{
		Components: []*loaderv1.ComponentRef{{Key: key}},
		Delivery:   loaderv1.Delivery_DELIVERY_NONE,
		MaxWait:    durationpb.New(time.Minute),
		Label:      "an example in Go",
	}, func(said *loaderv1.HoldModelResponse) {
		if asked := said.GetRevokeRequested(); asked != nil {
			fmt.Println("asked back:", asked.GetWhy())
		}
	})
	if errors.Is(err, modelkeep.RAMExhausted) {
		return fmt.Errorf("no room: %w", err)
	} else if err != nil {
		return err
	}
	for _, manifest := range lease.Grant().GetManifests() {
		fmt.Println("held", manifest.GetName(), manifest.GetFileSizeBytes(), "bytes by", lease.ID())
	}
	select {
	case <-interrupted.Done():
		return lease.Close()
	case <-lease.Done():
		return lease.Err()
	}
}
