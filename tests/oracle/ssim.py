# The golden values of t_metric.c's SSIM test: scikit-image on pictures that both sides make from integers.
# pip install scikit-image; python3 ssim.py
import numpy as np
from skimage.metrics import structural_similarity


def triangle(v, p):
    return np.abs(v % (2 * p) - p) * 255 // p


def pictures(w, h):
    y, x, c = np.mgrid[0:h, 0:w, 0:3]
    a = (triangle(3 * x + 2 * y, 50) + triangle(x * y // 8 + 20 * c, 40)) // 2
    b = np.minimum(255, a * 9 // 10 + (31 * x + 17 * y + 7 * x * y + 13 * c) % 23)
    return a, b


def luma(p):
    return p @ np.array([0.299, 0.587, 0.114])


for w, h in [(11, 11), (37, 23), (64, 48), (129, 75)]:
    a, b = map(luma, pictures(w, h))
    s = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    print("{%d, %d, %.12f}," % (w, h, s))
