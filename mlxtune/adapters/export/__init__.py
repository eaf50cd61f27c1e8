"""Export an adapter: fuse it into its base, write it in one of several formats, and compare it with the adapter."""
