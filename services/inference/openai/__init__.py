"""The OpenAI API: what clients that speak it send, and what they are sent."""
