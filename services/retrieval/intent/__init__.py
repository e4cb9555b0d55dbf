"""What a question in a conversation is after, and what it means without the conversation."""
