"""Where documents and their chunks are kept, by technology."""
