"""Guards: language models that say whether a text is safe."""
