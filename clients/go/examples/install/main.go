// Command install installs a model from any source and follows it to the end.
//
//	go run ./examples/install tiny-sd
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"

	"modelkeep.dev/go"
	installv1 "modelkeep.dev/go/modelkeep/install/v1"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("Say what to install: a path, an address, or owner/name.")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := install(ctx, os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func install(ctx context.Context, source string) error {
	client, err := modelkeep.Dial(modelkeep.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	request := &installv1.ImportModelRequest{Source: modelkeep.Source(source)}
	made, err := client.Installs.ImportModel(ctx, request)
	if err != nil {
		return err
	}
	done, err := client.WaitInstall(ctx, made.GetInstall().GetId(), func(now *installv1.Install) {
		progress := now.GetProgress()
		fmt.Println(now.GetState(), now.GetStage(), progress.GetBytesDone(), "of", progress.GetBytesTotal(), "bytes")
	})
	if err != nil {
		return err
	}
	fmt.Println("installed", done.GetModel().GetName(), "as", done.GetModelKey())
	return nil
}
