"""One base in memory, many adapters: hot swap, an engine for many requests, a chat session, an OpenAI-style server."""
