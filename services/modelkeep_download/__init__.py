"""DownloadService: fetches files, remembers how far it is, and hands over only what it has checked."""
