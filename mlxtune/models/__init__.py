"""Models: find them, load them on the path that suits the machine, render chats, add adapters."""
