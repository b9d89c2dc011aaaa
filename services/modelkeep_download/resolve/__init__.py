"""What a source comes to before anything is fetched: one `Resolver` for each kind, one `Plan` for all."""
