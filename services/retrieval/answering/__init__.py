"""What an answer goes through: plan, passages, prompt, judgement."""
