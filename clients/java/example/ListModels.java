import dev.modelkeep.record.v1.ListModelsRequest;
import dev.modelkeep.record.v1.RecordServiceGrpc;
import io.grpc.ManagedChannelBuilder;

/** Prints the models of the RecordService at HOST:PORT. */
public final class ListModels {
    public static void main(String[] arguments) {
        var address = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
        var channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
        var records = RecordServiceGrpc.newBlockingStub(channel);
        records.listModels(ListModelsRequest.getDefaultInstance()).getModelsList()
            .forEach(model -> System.out.println(model.getKey() + " " + model.getName()));
        channel.shutdownNow();
    }
}
