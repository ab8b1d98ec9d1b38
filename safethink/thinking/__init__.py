"""The format of a reasoner's thinking: tags and turns, prompts opened as ids, traces read as text."""
