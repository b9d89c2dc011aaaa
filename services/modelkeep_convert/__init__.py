"""What runs in helper processes: from installed files to sealed memory in another form. See README.md."""
