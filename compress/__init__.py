"""Tensors to parts, and checkpoints to containers: codecs, recipes, plans and the streaming pipeline."""
