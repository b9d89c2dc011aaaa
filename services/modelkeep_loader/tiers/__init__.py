"""Where weights are held: the memory behind each tier."""
