"""A process that holds descriptors for a loader, so that one which was killed finds its memory again."""
