"""Restoration without networks: pure functions of uint8 [H, W, 3] RGB, from 8x8 on, built on OpenCV, scikit-image and SciPy."""
