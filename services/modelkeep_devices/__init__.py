"""What works on accelerators, in processes of its own: the owner, and the copiers. See README.md."""
