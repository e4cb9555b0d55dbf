"""How documents get in: received, read, cut into chunks, embedded, and written to the vector store."""
