"""LoaderService: holds the weights of models once per host and lends them to worker processes."""
