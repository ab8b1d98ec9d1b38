"""Cards, uploads and vocabularies of what was learned."""
