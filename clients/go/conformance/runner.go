package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"modelkeep.dev/go"
)

var variable = regexp.MustCompile(`\$\{[A-Z_]+\}`)

// runner calls the services as each of the callers that cases name.
type runner struct {
	clients map[string]*modelkeep.Client
	kept    map[string]string
}

func newRunner() (*runner, error) {
	made := &runner{clients: map[string]*modelkeep.Client{}, kept: map[string]string{
		"IMPORTS": os.Getenv("MODELKEEP_CONFORMANCE_IMPORTS"),
	}}
	tokenFile := os.Getenv("MODELKEEP_TOKEN_FILE")
	if err := os.Unsetenv("MODELKEEP_TOKEN_FILE"); err != nil { // it is the owner's alone
		return nil, err
	}
	for as, config := range map[string]modelkeep.Config{
		"owner":     {TokenFile: tokenFile},
		"anonymous": {},
		"stranger":  {Token: "nobody-knows-this-token-of-a-stranger"},
	} {
		config.Gateway = os.Getenv("MODELKEEP_CONFORMANCE_GATEWAY")
		client, err := modelkeep.Dial(config)
		if err != nil {
			return nil, err
		}
		made.clients[as] = client
	}
	return made, nil
}

func (runner *runner) close() {
	for _, client := range runner.clients {
		client.Close()
	}
}

// run a case; the error says what is different.
func (runner *runner) run(ctx context.Context, one conformanceCase) error {
	answers, err := runner.ask(ctx, one)
	if one.Error != nil {
		return compare(runner.filled(withViolations(one.Error)), told(err), "error")
	}
	if err != nil {
		return fmt.Errorf("there is an error: %w", err)
	}
	expected := one.Answers
	if expected == nil {
		expected = []any{one.Answer}
	}
	if err := compare(runner.filled(expected), answers, "answers"); err != nil {
		return err
	}
	for name, path := range one.Keep {
		text, is := at(answers[len(answers)-1], path).(string)
		if !is {
			return fmt.Errorf("%s is no text", path)
		}
		runner.kept[name] = text
	}
	return nil
}

// ask makes a case's call and gives its answers as JSON has them.
func (runner *runner) ask(ctx context.Context, one conformanceCase) ([]any, error) {
	service, name, _ := strings.Cut(one.Method, "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		return nil, err
	}
	method := found.(protoreflect.MethodDescriptor)
	request := messageOf(method.Input())
	if one.Request != nil {
		text, err := json.Marshal(runner.filled(one.Request))
		if err != nil {
			return nil, err
		}
		if err := protojson.Unmarshal(text, request); err != nil {
			return nil, err
		}
	}
	asked, as := one.At, one.As
	if asked == "" {
		asked = strings.Split(service, ".")[1]
	}
	if as == "" {
		as = "owner"
	}
	connection := runner.clients[as].Connection(modelkeep.Service(asked))
	if method.IsStreamingServer() {
		return first(ctx, connection, one, method, request)
	}
	answer := messageOf(method.Output())
	if err := connection.Invoke(ctx, "/"+one.Method, request, answer); err != nil {
		return nil, err
	}
	return appended(nil, answer)
}

// first is as many messages of a stream as a case names, or one more if it should end after them.
func first(ctx context.Context, connection grpc.ClientConnInterface, one conformanceCase,
	method protoreflect.MethodDescriptor, request proto.Message) (answers []any, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+one.Method)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	for err == nil && (len(answers) < len(one.Answers) || one.Ends || one.Error != nil) {
		answer := messageOf(method.Output())
		if err = stream.RecvMsg(answer); err == nil {
			answers, err = appended(answers, answer)
		}
		if len(answers) > len(one.Answers) {
			return answers, err
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return answers, err
}

func messageOf(descriptor protoreflect.MessageDescriptor) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err) // the module has every message of the API
	}
	return found.New().Interface()
}

func appended(answers []any, message proto.Message) ([]any, error) {
	text, err := protojson.Marshal(message)
	if err != nil {
		return answers, err
	}
	var answer any
	if err := json.Unmarshal(text, &answer); err != nil {
		return answers, err
	}
	return append(answers, answer), nil
}

// filled is what a case says, with the values of its variables.
func (runner *runner) filled(value any) any {
	switch value := value.(type) {
	case string:
		return variable.ReplaceAllStringFunc(value, func(name string) string {
			return runner.kept[name[2:len(name)-1]]
		})
	case []any:
		filled := make([]any, len(value))
		for i, inner := range value {
			filled[i] = runner.filled(inner)
		}
		return filled
	case map[string]any:
		filled := make(map[string]any, len(value))
		for name, inner := range value {
			filled[name] = runner.filled(inner)
		}
		return filled
	}
	return value
}
