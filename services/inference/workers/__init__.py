"""Several processes of one service on one machine: what they share, and how they tell each other of it."""
