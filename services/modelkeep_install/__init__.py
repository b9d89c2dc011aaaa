"""InstallService: any source in, a registered model out."""
