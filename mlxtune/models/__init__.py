"""Find and load models, render chats, add adapters, and generate text."""
