"""The adapter library of a workspace. Import, fuse, export and publish adapters."""
