"""What the command line, the app, and the report show: each object described once, as a document of blocks, and drawn by four drawers."""
