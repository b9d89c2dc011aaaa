"""Rules and states of downloads: pure, with the time handed in."""
