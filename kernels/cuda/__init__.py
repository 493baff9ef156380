"""The `cuda` backend: kernels in CUDA C++ that CuPy compiles and launches; see docs/cuda.md."""
