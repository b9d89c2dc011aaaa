package modelkeep

import (
	"encoding/json"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	downloadv1 "modelkeep.dev/go/modelkeep/download/v1"
	installv1 "modelkeep.dev/go/modelkeep/install/v1"
	loaderv1 "modelkeep.dev/go/modelkeep/loader/v1"
	recordv1 "modelkeep.dev/go/modelkeep/record/v1"
	serverv1 "modelkeep.dev/go/modelkeep/server/v1"
)

var apiFiles = []protoreflect.FileDescriptor{
	recordv1.File_modelkeep_record_v1_record_service_proto,
	downloadv1.File_modelkeep_download_v1_download_service_proto,
	installv1.File_modelkeep_install_v1_install_service_proto,
	loaderv1.File_modelkeep_loader_v1_loader_service_proto,
	serverv1.File_modelkeep_server_v1_server_service_proto,
}

// serviceConfig repeats unary calls while a service is unavailable, where their method says (idempotency_level) that
// a repetition does no harm.
var serviceConfig = sync.OnceValue(func() string {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	var names []name
	for _, file := range apiFiles {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				method := methods.Get(j)
				if repeatable(method) && !method.IsStreamingServer() && !method.IsStreamingClient() {
					names = append(names, name{string(method.Parent().FullName()), string(method.Name())})
				}
			}
		}
	}
	policy := map[string]any{
		"maxAttempts":          4,
		"initialBackoff":       "0.1s",
		"maxBackoff":           "1s",
		"backoffMultiplier":    2,
		"retryableStatusCodes": []string{"UNAVAILABLE"},
	}
	config := map[string]any{"methodConfig": []any{map[string]any{"name": names, "retryPolicy": policy}}}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // only texts and numbers are in it
	}
	return string(text)
})

func repeatable(method protoreflect.MethodDescriptor) bool {
	options, is := method.Options().(*descriptorpb.MethodOptions)
	if !is {
		return false
	}
	switch options.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS, descriptorpb.MethodOptions_IDEMPOTENT:
		return true
	}
	return false
}
