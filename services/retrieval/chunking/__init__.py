"""Cuts a document's text into chunks: the unit that is embedded, searched and cited."""
