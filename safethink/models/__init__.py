"""Models of transformers: loaded, placed on devices, hashed; soft rows among their embeddings."""
