"""How good search is, on queries whose relevant documents are known."""
