"""Native kernels for tensors in main memory: one module a codec, found by its name.

Each has two functions,

    decode(encoded, rows: range, columns: range, dtype) -> tensor [len(rows), len(columns)] of that dtype
    matmul(x, encoded, bias, rows: range) -> tensor [..., len(rows)] in the dtype of x

which call PyTorch operators of the namespace `tilepress`, so that torch.compile and torch.export see them.
"""
