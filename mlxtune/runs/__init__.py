"""Runs: folders on disk, the events that tell their story, and the detached workers that write them."""
