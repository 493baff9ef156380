"""The definition of every codec's decoding, in PyTorch: short, slow, and what all other backends are tested against.

Each module has one function,

    decode(encoded, rows: range, columns: range) -> tensor [len(rows), len(columns)]

which reads only the panels and tiles that hold the range. Its result is float32, or for `none` and `lossless` the
tensor's own dtype.
"""
