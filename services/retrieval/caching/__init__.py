"""What retrieval does not do twice: embedding, searching, answering."""
