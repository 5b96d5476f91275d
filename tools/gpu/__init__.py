"""This package on an NVIDIA GPU, with MLX's CUDA build, on a machine that no network reaches.

    # here: everything that is needed there, in parts of at most 45 MB
    python -m tools.gpu.pack --out build/gpu --there tools/gpu/torch-image.txt --architecture 90
    # there, in a copy of this checkout
    python3 tools/gpu/there.py --parts build/gpu --out results --only tests --seconds 240
    python3 tools/gpu/there.py --parts build/gpu --out results --only speed --seconds 75

What the tests found on an NVIDIA H100 is in docs/performance.md; speeds have not been measured.
"""
