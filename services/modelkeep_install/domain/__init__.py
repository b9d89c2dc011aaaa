"""What a job, a record to be and a root are, and whose files are whose. No grpc, no SQL, no sockets."""
