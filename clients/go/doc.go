// Package modelkeep calls the four services of a modelkeep suite: records of models, downloads, installs, and the
// loader that lends weights.
//
//	client, err := modelkeep.Dial(modelkeep.Config{}) // the suite that `modelkeep up` runs here
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	answer, err := client.Records.GetModel(ctx, &recordv1.GetModelRequest{Key: key})
//	if errors.Is(err, modelkeep.UnknownModel) {
//
// A [Client] has the generated stubs, whose comments are the manual, and adds what is the same in every program: where
// the services are, who calls, repetitions where they do no harm, errors by their reason ([Error], [Reason]), watches
// that go on by themselves ([Client.WatchModels] and its like), waits for jobs ([Client.WaitInstall]) and leases that
// are held until they are closed ([Client.Hold]).
package modelkeep
