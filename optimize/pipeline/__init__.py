"""From prompts to an artifact: contexts, search, selection, export; and what starts it."""
