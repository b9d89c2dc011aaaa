"""Between the messages of the wire and the words of the domain."""
