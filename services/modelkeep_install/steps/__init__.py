"""The steps of an install."""
