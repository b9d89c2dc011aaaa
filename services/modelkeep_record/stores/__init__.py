"""Where records are kept: one folder for each engine."""
