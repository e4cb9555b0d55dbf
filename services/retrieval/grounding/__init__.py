"""How far what an answer says rests on its sources."""
