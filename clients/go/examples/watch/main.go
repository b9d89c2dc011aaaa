// Command watch lists the models, and then tells every change, also across restarts of the service, until Ctrl-C.
//
//	go run ./examples/watch
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"

	"modelkeep.dev/go"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := watch(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func watch(ctx context.Context) error {
	client, err := modelkeep.Dial(modelkeep.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	page, err := client.Records.ListModels(ctx, &recordv1.ListModelsRequest{PageSize: 1000})
	if err != nil {
		return err
	}
	for _, model := range page.GetModels() {
		fmt.Println("have", model.GetKey(), model.GetName())
	}
	// From the place of the list on, nothing is missed between the two.
	request := &recordv1.WatchModelsRequest{ResumeToken: page.GetResumeToken()}
	for frame, err := range client.WatchModels(ctx, request) {
		if err != nil {
			return err
		}
		for _, event := range frame.Events {
			if model := event.GetPut(); model != nil {
				fmt.Println("put", model.GetKey(), model.GetName())
			} else {
				fmt.Println("removed", event.GetRemovedKey())
			}
		}
	}
	return nil
}
