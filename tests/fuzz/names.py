"""What the fuzzed suite holds."""

# Id of the collection, the document, the conversation and the experiment that can be met.
NAME = "fuzz"
