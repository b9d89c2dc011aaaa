"""What may be stored, what may change, what a list is about. No grpc, no SQL."""
