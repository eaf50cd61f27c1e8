"""Adapters: the library of a workspace, what may come into it, and the ways out: fused, exported, on the hub."""
