"""This package on an NVIDIA GPU, with MLX's CUDA build, on a machine that no network reaches.

    python -m tools.gpu.pack --out build/gpu      # here: everything that is needed there, in parts of at most 45 MB
    python3 tools/gpu/there.py --parts build/gpu --out results     # there, in a copy of this checkout

Nobody has run the second on a GPU yet.
"""
