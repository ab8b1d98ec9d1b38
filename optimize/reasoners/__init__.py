"""Small reasoners made of pretrained models: a corpus that may be shared, LoRA, and what came out, measured."""
