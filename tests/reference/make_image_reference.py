"""Makes image_resize.txt, image_files.txt and images/ with Pillow and torchvision.

Needs Pillow before 13: from 13.0 on, Pillow takes the vertical pass first for pictures whose height
shrinks much more than their width, and so rounds differently. Made with Pillow 12.0, torchvision 0.29.
"""

import pathlib
import struct
import zlib

import numpy
import PIL
from PIL import Image
from torchvision import transforms

HERE = pathlib.Path(__file__).parent
assert int(PIL.__version__.split(".")[0]) < 13, "needs Pillow before 13"


def picture(width, height):
    """The same formula as synthetic_picture() in image_test.cpp: curves, and stripes that overshoot."""
    y, x, c = numpy.mgrid[0:height, 0:width, 0:3].astype(numpy.int64)
    curves = (x * x + 3 * y * y + (c + 1) * x * y + 37 * c) % 256
    stripes = 255 * ((x + y) % 2)
    return numpy.where((x // 3 + y // 5 + c) % 4 == 0, stripes, curves).astype(numpy.uint8)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def summary(pixels):
    """Hash of all bytes, then the first, the middle and the last pixel."""
    height, width, _ = pixels.shape
    samples = [pixels[0, 0], pixels[height // 2, width // 2], pixels[-1, -1]]
    return " ".join(map(str, [fnv1a(pixels.tobytes()), *numpy.concatenate(samples)]))


RESIZES = [  # width, height, new width, new height, box
    (64, 48, 21, 16, None),
    (16, 12, 50, 37, None),
    (40, 9, 13, 31, None),
    (9, 40, 31, 13, None),
    (31, 17, 31, 9, None),
    (31, 17, 9, 17, None),
    (31, 17, 31, 17, None),
    (33, 47, 17, 23, None),
    (500, 2, 7, 5, None),
    (2, 500, 5, 7, None),
    (1, 1, 6, 4, None),
    (1, 30, 3, 4, None),
    (90, 70, 1, 1, None),
    (65, 35, 64, 34, None),
    (40, 30, 12, 10, (3, 4, 31, 25)),
    (40, 30, 12, 10, (0.3, 1.7, 38.9, 29.25)),
    (40, 30, 50, 60, (10.125, 5.5, 20.75, 9.875)),
    (40, 30, 40, 10, (0, 0.5, 40, 30)),
    (40, 30, 10, 30, (0.5, 0, 40, 30)),
    (40, 30, 5, 5, (7.1, 8.2, 7.4, 8.3)),
    (320, 240, 75, 56, (11.4, 0.6, 300.2, 239.9)),
]
TRANSFORMS = [  # width, height, size
    (96, 64, 32),
    (64, 96, 32),
    (97, 65, 32),
    (65, 97, 33),
    (50, 50, 24),
    (24, 24, 24),
    (40, 24, 24),
    (20, 11, 32),
    (1, 1, 8),
    (300, 1, 8),
    (1, 300, 8),
    (301, 7, 5),
    (640, 480, 224),
    (333, 500, 224),
]


def make_resizes():
    lines = []
    for width, height, new_width, new_height, box in RESIZES:
        box = box or (0, 0, width, height)
        image = Image.fromarray(picture(width, height))
        result = image.resize((new_width, new_height), Image.BICUBIC, box)
        sizes = " ".join(map(str, (width, height, new_width, new_height, *box)))
        lines.append(f"resize {sizes} {summary(numpy.asarray(result))}")
    for width, height, size in TRANSFORMS:
        transform = transforms.Compose(
            [
                transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size),
            ]
        )
        result = transform(Image.fromarray(picture(width, height)))
        lines.append(f"transform {width} {height} {size} {summary(numpy.asarray(result))}")
    (HERE / "image_resize.txt").write_text("\n".join(lines) + "\n")


def png(width, height, depth, color, interlaced, rows):
    """A PNG of unfiltered rows, for the kinds that Pillow does not write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def interlaced_png(pixels):
    height, width, _ = pixels.shape
    rows = []
    for x, y, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                         (1, 0, 2, 2), (0, 1, 1, 2)]:
        rows += [row.tobytes() for row in pixels[y::dy, x::dx] if row.size]
    return png(width, height, 8, 2, 1, rows)


def top_down_bmp(pixels):
    height, width, _ = pixels.shape
    rows = [row[:, ::-1].tobytes() for row in pixels]
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    info = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(body), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(body), 0, 0, 54) + info + body


def psd(pixels):
    """Uncompressed, which Pillow reads but does not write: header, three empty sections, planes."""
    height, width, _ = pixels.shape
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
    return header + bytes(12) + bytes(2) + pixels.transpose(2, 0, 1).tobytes()


def make_files():
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    small = picture(13, 11)
    rgb = Image.fromarray(small)
    grey = rgb.convert("L")
    alpha = Image.fromarray(picture(13, 11)[:, :, 1])
    palette = rgb.quantize(16)
    deep = (picture(13, 11).astype(numpy.uint16) << 8) + picture(13, 11)[::-1]
    y, x = numpy.mgrid[0:17, 0:23]
    smooth = numpy.stack([x * 11, y * 15, 255 - x * 5 - y * 8], axis=2).astype(numpy.uint8)
    photo = Image.fromarray(smooth)

    rgb.save(folder / "rgb.png")
    Image.merge("RGBA", [*rgb.split(), alpha]).save(folder / "rgba.png")
    grey.save(folder / "grey.png")
    Image.merge("LA", [grey, alpha]).save(folder / "grey_alpha.png")
    grey.point(lambda v: 255 * (v > 127)).convert("1").save(folder / "one_bit.png")
    palette.save(folder / "palette.png", transparency=3)
    (folder / "rgb16.png").write_bytes(png(13, 11, 16, 2, 0, [r.astype(">u2").tobytes() for r in deep]))
    (folder / "grey16.png").write_bytes(
        png(13, 11, 16, 0, 0, [r.astype(">u2").tobytes() for r in deep[:, :, 0]]))
    (folder / "interlaced.png").write_bytes(interlaced_png(small))
    rgb.save(folder / "rgb.bmp")
    palette.save(folder / "palette.bmp")
    (folder / "top_down.bmp").write_bytes(top_down_bmp(small))
    palette.save(folder / "palette.gif")
    (folder / "rgb.psd").write_bytes(psd(small))
    rgb.save(folder / "rgb.ppm")
    grey.save(folder / "grey.pgm")
    rgb.save(folder / "rgb.tga")
    rgb.save(folder / "compressed.tga", compression="tga_rle")
    photo.save(folder / "half_color.jpg", quality=90, subsampling=2)
    photo.save(folder / "full_color.jpg", quality=90, subsampling=0)
    photo.save(folder / "progressive.jpg", quality=90, progressive=True)
    photo.save(folder / "restarts.jpg", quality=90, restart_marker_blocks=1)
    photo.convert("L").save(folder / "grey.jpg", quality=90)
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=90)

    lines = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".rgb":
            continue
        pixels = numpy.asarray(Image.open(path).convert("RGB"))
        if path.name == "grey16.png":  # Pillow clips values above 255 instead
            pixels = numpy.repeat((deep[:, :, :1] >> 8).astype(numpy.uint8), 3, axis=2)
        lines.append(f"{path.name} {pixels.shape[1]} {pixels.shape[0]} {summary(pixels)}")
        if path.suffix == ".jpg":
            path.with_suffix(".rgb").write_bytes(pixels.tobytes())
    (HERE / "image_files.txt").write_text("\n".join(lines) + "\n")


make_resizes()
make_files()
