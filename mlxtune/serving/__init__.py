"""Serve one base model with many adapters: hot swapping, batched requests, chat sessions, and an OpenAI-compatible server."""
