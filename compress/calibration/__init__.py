"""Calibration: what text says about the inputs of each linear layer, gathered block by block."""
