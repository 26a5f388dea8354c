"""Pixels of the world that the bundled model learnt from, by the script that made its training clips.

usage: python golden_toyworld.py FOLDER_OF_TOYWORLD_PY OUT.safetensors   (NumPy and safetensors)
For each of the eight motions the first scene from 3,000,000 on (the motion modules' training clips) that has it:
"scene" [8], its number; "pixels" [8,32,32,3], every fourth pixel from (1, 1) of frame 3, 4, ..., 10.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, sys.argv[1])
import toyworld as tw

scenes = []
for motion in range(8):
    k = 3 * 10**6
    while tw.scene(k)["motion"] != motion:
        k += 1
    scenes.append(k)
pixels = [np.rint(tw.frame(tw.scene(k), 3 + i))[1::4, 1::4] for i, k in enumerate(scenes)]
save_file({"scene": np.array(scenes, np.float32), "pixels": np.stack(pixels).astype(np.float32)}, sys.argv[2])
