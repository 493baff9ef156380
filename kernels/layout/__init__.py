"""The parts of each codec: parameters, dtypes, shapes and the checks that make a file safe to decode."""
