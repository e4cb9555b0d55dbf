"""How good a text is, by criteria that need no language model."""
