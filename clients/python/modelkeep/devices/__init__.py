"""Memory of accelerators: what a process can do with it, one module for each kind."""
