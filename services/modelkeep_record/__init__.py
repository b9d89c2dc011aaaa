"""RecordService: what models there are, and where they lie. See README.md."""
