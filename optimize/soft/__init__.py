"""Soft prefixes: embedding rows trained by AdamW, at the places where a hard prefix would have its tokens."""
