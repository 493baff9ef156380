"""From files to a running model: the plugin for Transformers, compressed layers, loading and evaluation."""
