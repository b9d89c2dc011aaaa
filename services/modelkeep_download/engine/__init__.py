"""How jobs are run: who is next, one try of one, its bytes and its files."""
