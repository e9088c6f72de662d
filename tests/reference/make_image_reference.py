"""Makes image_resize.txt, image_transforms.txt, image_files.txt and images/ with Pillow, torchvision,
open_clip and transformers.

Needs Pillow 13 or later: from 13.0 on, Pillow takes the vertical pass first for pictures whose
height shrinks more than twice as much as their width, and so rounds differently.
Made with Pillow 13.0.0 (libjpeg-turbo 3.2.0), torchvision 0.29.2,
open_clip 3.3.0, transformers 5.23.0.
"""

import io
import json
import pathlib
import struct
import zlib

import numpy
import PIL
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision import transforms
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

HERE = pathlib.Path(__file__).parent
assert int(PIL.__version__.split(".")[0]) >= 13, "needs Pillow 13 or later"


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
    # Around the rule of the passes' order: rows lost against twice the columns lost.
    (30, 41, 20, 20, None),
    (30, 40, 20, 20, None),
    (20, 31, 30, 30, None),
    (20, 30, 30, 30, None),
    (30, 90, 20, 10, (2.5, 60, 28, 85.5)),
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
    (480, 1000, 224),
    (1, 2000, 16),
    (2000, 1, 16),
    (31, 2000, 32),
    (2000, 31, 32),
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


def make_transforms():
    """open_clip's image_transform_v2 and Hugging Face's CLIPImageProcessorPil, back to bytes."""
    lines = []
    shapes = [(96, 64), (64, 97), (65, 65), (32, 32), (20, 11), (9, 40), (31, 300), (640, 480)]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    for mode in ("shortest", "longest", "squash"):
        for interpolation in ("bicubic", "bilinear"):
            for width, height in shapes:
                cfg = {"mean": mean, "std": std, "interpolation": interpolation,
                       "resize_mode": mode, "fill_color": 77}
                transform = image_transform_v2(PreprocessCfg(size=32, **cfg), is_train=False)
                values = transform(Image.fromarray(picture(width, height))).numpy()
                pixels = back_to_bytes(values, mean, std)
                lines.append(["open_clip", width, height, 32, cfg, pixels])
    for short_side in (32, 37):
        for width, height in shapes:
            cfg = {"size": {"shortest_edge": short_side}, "crop_size": {"height": 32, "width": 32},
                   "image_mean": mean, "image_std": std, "resample": 3, "do_convert_rgb": True}
            values = CLIPImageProcessorPil(**cfg)(Image.fromarray(picture(width, height)))
            pixels = back_to_bytes(values["pixel_values"][0], mean, std)
            lines.append(["hugging_face", width, height, 32, cfg, pixels])
    text = ""
    for *sizes, cfg, pixels in lines:
        fields = json.dumps(cfg, separators=(",", ":"))
        text += " ".join(map(str, [*sizes, fields, summary(pixels)])) + "\n"
    (HERE / "image_transforms.txt").write_text(text)


def back_to_bytes(values, mean, std):
    """[3, height, width] normalised -> [height, width, 3]; every value must be one of a byte."""
    scaled = (numpy.asarray(values, numpy.float64).transpose(1, 2, 0) * std + mean) * 255
    pixels = numpy.rint(scaled)
    assert abs(scaled - pixels).max() < 1e-3
    return pixels.astype(numpy.uint8)


def png(width, height, depth, color, interlaced, rows, *chunks):
    """A PNG of unfiltered rows, for the kinds that Pillow does not write; chunks: (type, data)."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks)
            + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def packed(row, depth):
    """Values of 1, 2 or 4 bits, the first in the highest bits."""
    bits = (row[:, None] >> numpy.arange(depth - 1, -1, -1)) & 1
    return numpy.packbits(bits.astype(numpy.uint8).ravel()).tobytes()


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2)]


def interlaced_rows(pixels, encode):
    return [encode(row) for x, y, dx, dy in PASSES for row in pixels[y::dy, x::dx] if row.size]


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


def make_png_files(folder):
    """Every depth and colour type, some interlaced, some with a transparent colour (tRNS)."""
    small = picture(13, 11)
    values = small[:, :, 0]
    colors = ("PLTE", picture(16, 16).reshape(-1, 3))
    for depth in (1, 2, 4):
        few = values >> (8 - depth)
        rows = [packed(row, depth) for row in few]
        palette = (b"PLTE", colors[1][: 2**depth].tobytes())
        alphas = (b"tRNS", bytes([0, 128][: 2**depth]))
        (folder / f"grey{depth}.png").write_bytes(png(13, 11, depth, 0, 0, rows))
        (folder / f"palette{depth}.png").write_bytes(png(13, 11, depth, 3, 0, rows, palette, alphas))
        (folder / f"palette{depth}_interlaced.png").write_bytes(
            png(13, 11, depth, 3, 1, interlaced_rows(few, lambda row: packed(row, depth)), palette))
    whole = (b"PLTE", colors[1].tobytes())
    (folder / "palette8.png").write_bytes(
        png(13, 11, 8, 3, 0, [row.tobytes() for row in values], whole, (b"tRNS", bytes(range(200)))))
    key = (b"tRNS", struct.pack(">H", values[5, 5]))
    (folder / "grey8_key.png").write_bytes(png(13, 11, 8, 0, 0, [r.tobytes() for r in values], key))
    key = (b"tRNS", struct.pack(">HHH", *small[5, 5]))
    (folder / "rgb8_key.png").write_bytes(png(13, 11, 8, 2, 0, [r.tobytes() for r in small], key))
    deep = picture(13, 11).astype(numpy.uint16) << 8 | picture(13, 11)[::-1]
    two = numpy.stack([deep[:, :, 0], deep[:, :, 1]], axis=2)
    four = numpy.concatenate([deep, deep[:, :, :1]], axis=2)
    big = lambda row: row.astype(">u2").tobytes()
    (folder / "grey_alpha16.png").write_bytes(png(13, 11, 16, 4, 0, [big(r) for r in two]))
    (folder / "rgba16.png").write_bytes(png(13, 11, 16, 6, 0, [big(r) for r in four]))
    (folder / "rgb16_interlaced.png").write_bytes(
        png(13, 11, 16, 2, 1, interlaced_rows(deep, big)))
    dark = deep[:, :, 0] >> numpy.where(numpy.mgrid[0:11, 0:13][1] % 2 == 0, 8, 0)
    (folder / "grey16_dark.png").write_bytes(png(13, 11, 16, 0, 0, [big(r) for r in dark]))
    for width, height in [(1, 1), (1, 40), (40, 1), (3, 2)]:
        (folder / f"grey2_{width}x{height}.png").write_bytes(png(
            width, height, 2, 0, 1,
            interlaced_rows(picture(width, height)[:, :, 0] >> 6, lambda row: packed(row, 2))))


def bmp(width, height, bits, rows, palette=b""):
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in rows[::-1])
    start = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(body), 0, 0,
                       len(palette) // 4, 0)
    head = struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start)
    return head + info + palette + body


def make_bmp_files(folder):
    small = picture(13, 11)
    values = small[:, :, 0]
    entries = b"".join(bytes([*color[::-1], 0]) for color in picture(16, 1)[0])
    for bits in (1, 4):
        rows = [packed(row, bits) for row in values >> (8 - bits)]
        (folder / f"palette{bits}.bmp").write_bytes(bmp(13, 11, bits, rows, entries[: 4 << bits]))
    four = numpy.concatenate([small[:, :, ::-1], small[:, :, :1]], axis=2)
    (folder / "rgbx.bmp").write_bytes(bmp(13, 11, 32, [row.tobytes() for row in four]))


def make_gif_files(folder):
    palette = Image.fromarray(picture(13, 11)).quantize(16)
    palette.save(folder / "interlaced.gif", interlace=1)
    palette.save(folder / "plain.gif", interlace=0)
    palette.save(folder / "transparent.gif", transparency=palette.getpixel((6, 5)))
    palette.save(folder / "animated.gif", save_all=True, duration=50, disposal=2,
                 append_images=[palette.rotate(180)])
    # A first frame smaller than the screen: the screen's size is at byte 6, the background at 11.
    for name, background in [("offset", 3), ("offset_transparent", 5)]:
        file = io.BytesIO()
        options = {"transparency": 2} if "transparent" in name else {}
        palette.save(file, "GIF", **options)
        data = bytearray(file.getvalue())
        data[6:10] = struct.pack("<HH", 20, 17)
        data[11] = background
        frame = data.index(b",\0\0\0\0")
        data[frame + 1 : frame + 5] = struct.pack("<HH", 4, 2)
        (folder / f"{name}.gif").write_bytes(data)
    Image.fromarray(picture(13, 11)[:, :, 0]).save(folder / "grey.gif")
    Image.fromarray(picture(70, 60)).quantize(256).save(folder / "large.gif")


def make_jpeg_files(folder):
    y, x, c = numpy.mgrid[0:35, 0:45, 0:3]
    waves = 128 + 60 * numpy.sin((x * (c + 1) + y) / 9) + 60 * numpy.cos((y * 3 - x * c) / 7)
    edge = numpy.where(x + 2 * y > 60 + 10 * c, 40, -20)
    photo = Image.fromarray(numpy.clip(waves + edge, 0, 255).astype(numpy.uint8))

    def save(name, image=photo, **options):
        image.save(folder / f"jpeg_{name}.jpg", **({"quality": 75} | options))

    def edited(name, place, value, image, **options):
        """A file whose byte at `place`(bytes) is changed."""
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75, **options)
        data = bytearray(file.getvalue())
        data[place(data)] = value
        (folder / f"jpeg_{name}.jpg").write_bytes(data)

    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            kind = f"{['444', '422', '420'][subsampling]}{'_progressive' if progressive else ''}"
            save(kind, subsampling=subsampling, progressive=progressive)
        for width, height in [(1, 1), (2, 3), (1, 35), (45, 1), (16, 16), (17, 33)]:
            save(f"{subsampling}_{width}x{height}", photo.crop((0, 0, width, height)),
                 subsampling=subsampling)
    for quality in (1, 100):
        save(f"quality{quality}", quality=quality, subsampling=2, optimize=True)
    save("restarts", subsampling=2, restart_marker_rows=1)
    save("restarts_progressive", subsampling=1, restart_marker_blocks=2, progressive=True)
    save("grey", photo.convert("L"))
    save("grey_progressive", photo.convert("L"), progressive=True)
    save("keep_rgb", keep_rgb=True, subsampling=0)
    save("cmyk", photo.convert("CMYK"))
    save("cmyk_420", photo.convert("CMYK"), subsampling=2)
    orientation = Image.Exif()
    orientation[0x112] = 6  # turned by a quarter, which neither Pillow's convert nor we undo
    save("rotated", exif=orientation)
    # As many MCUs of as many blocks, so the same data are valid for other sampling factors.
    part = photo.crop((0, 0, 31, 15))
    luma = lambda data: data.index(b"\xff\xc0") + 11
    edited("411", luma, 0x41, part, subsampling=2)
    edited("440", luma, 0x12, part, subsampling=1)
    transform = lambda data: data.index(b"Adobe") + 11
    edited("ycck", transform, 2, photo.convert("CMYK"))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=75, subsampling=0)
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    data = file.getvalue()
    after_jfif = 4 + 16
    for kind, start in [("adobe_rgb", data[:2] + adobe + b"\0"), ("adobe_ycc", data[:2] + adobe + b"\1")]:
        (folder / f"jpeg_{kind}.jpg").write_bytes(start + data[after_jfif:])
    (folder / "jpeg_without_markers.jpg").write_bytes(data[:2] + data[after_jfif:])
    data = bytearray(data[:2] + data[after_jfif:])  # components named R, G, B
    for marker, first, step in [(b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)]:
        at = data.index(marker)
        for i, letter in enumerate(b"RGB"):
            data[at + first + step * i] = letter
    (folder / "jpeg_named_rgb.jpg").write_bytes(data)


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
    (folder / "interlaced.png").write_bytes(
        png(13, 11, 8, 2, 1, interlaced_rows(small, lambda row: row.tobytes())))
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

    make_png_files(folder)
    make_bmp_files(folder)
    make_gif_files(folder)
    make_jpeg_files(folder)

    lines = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".rgb":
            continue
        pixels = numpy.asarray(Image.open(path).convert("RGB"))
        lines.append(f"{path.name} {pixels.shape[1]} {pixels.shape[0]} {summary(pixels)}")
        if path.suffix == ".jpg" and not path.stem.startswith("jpeg_"):
            path.with_suffix(".rgb").write_bytes(pixels.tobytes())
    (HERE / "image_files.txt").write_text("\n".join(lines) + "\n")


make_resizes()
make_transforms()
make_files()
