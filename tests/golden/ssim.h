/* scikit-image's SSIM of the pictures of tests/oracle/ssim.py: width, height, value. Its output, to be
 * included. */
{11, 11, 0.983300601607}, {37, 23, 0.963828790728}, {64, 48, 0.972454557358}, {129, 75, 0.979316675753},
