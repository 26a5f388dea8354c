# Makes the odd pictures of tests/cli_image.sh: python3 tests/oracle/odd_pictures.py tests/golden/media (needs Pillow).
# 48x32, red on the left and blue on the right, so that a test can tell sides and colours apart.
import sys
from PIL import Image, ImageDraw

out = sys.argv[1]
LEFT, RIGHT = (200, 40, 40), (40, 60, 200)


def halves(mode="RGB", size=(48, 32)):
    picture = Image.new("RGB", size, LEFT)
    ImageDraw.Draw(picture).rectangle([size[0] // 2, 0, size[0], size[1]], fill=RIGHT)
    return picture.convert(mode)


halves("CMYK").save(out + "/cmyk.jpg", quality=90)
alpha = halves("RGBA")
ImageDraw.Draw(alpha).rectangle([0, 0, 23, 31], fill=LEFT + (0,))  # the red half is transparent
alpha.save(out + "/alpha.png")
deep = Image.new("I;16", (48, 32), 52000)
deep.save(out + "/deep.png")
exif = Image.Exif()
exif[0x0112] = 6  # to be shown after a quarter turn clockwise: 32x48, red above
halves().save(out + "/turned.jpg", exif=exif, quality=90)
halves().save(out + "/moving.gif", save_all=True, append_images=[Image.new("RGB", (48, 32), (0, 0, 0))], duration=100)
