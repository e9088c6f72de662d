#include "models/emoji_font.h"

#include <ft2build.h>
#include FT_FREETYPE_H

#include <filesystem>
#include <memory>
#include <system_error>

#include "engine/check.h"
#include "models/emoji_list.h"

namespace clip {
namespace {

// Debian and Ubuntu, Arch, Fedora.
constexpr const char* kUsualPlaces[] = {
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
};

struct CloseLibrary {
  void operator()(FT_Library library) const { FT_Done_FreeType(library); }
};
struct CloseFace {
  void operator()(FT_Face face) const { FT_Done_Face(face); }
};
using Library = std::unique_ptr<FT_LibraryRec_, CloseLibrary>;
using Face = std::unique_ptr<FT_FaceRec_, CloseFace>;

void check_freetype(FT_Error error, const std::string& font, const char* what) {
  CLIP_CHECK(error == 0, font, ": cannot ", what, " (FreeType error ", error, ")");
}

Sprite to_sprite(const FT_Bitmap& bitmap) {
  Sprite sprite = {bitmap.width, bitmap.rows, {}};
  sprite.pixels.reserve(static_cast<size_t>(sprite.width * sprite.height * 4));
  for (int64_t y = 0; y < sprite.height; ++y) {
    const uint8_t* source = bitmap.buffer + y * bitmap.pitch;
    for (int64_t x = 0; x < sprite.width; ++x, source += 4)
      sprite.pixels.insert(sprite.pixels.end(), {source[2], source[1], source[0], source[3]});
  }
  return sprite;
}

}  // namespace

std::vector<Sprite> load_emoji(const std::string& font) {
  FT_Library raw_library = nullptr;
  check_freetype(FT_Init_FreeType(&raw_library), font, "start FreeType to read it");
  const Library library(raw_library);
  FT_Face raw_face = nullptr;
  check_freetype(FT_New_Face(library.get(), font.c_str(), 0, &raw_face), font, "be read as a font");
  const Face face(raw_face);
  CLIP_CHECK(FT_HAS_COLOR(face) && face->num_fixed_sizes > 0, font,
             ": expected a font with colour bitmaps, such as the one of the Debian package ",
             kEmojiFontPackage, ", found none in it");
  check_freetype(FT_Select_Size(face.get(), 0), font, "select the size of its bitmaps");

  std::vector<Sprite> sprites;
  for (const EmojiEntry& entry : kEmojiList) {
    const FT_UInt glyph = FT_Get_Char_Index(face.get(), entry.code_point);
    CLIP_CHECK(glyph != 0, font, ": has no glyph for ", entry.noun.singular);
    check_freetype(FT_Load_Glyph(face.get(), glyph, FT_LOAD_COLOR), font, "load a glyph");
    const FT_Bitmap& bitmap = face->glyph->bitmap;
    CLIP_CHECK(face->glyph->format == FT_GLYPH_FORMAT_BITMAP &&
                   bitmap.pixel_mode == FT_PIXEL_MODE_BGRA && bitmap.width > 0 && bitmap.rows > 0,
               font, ": the glyph for ", entry.noun.singular, " is no colour bitmap");
    sprites.push_back(to_sprite(bitmap));
  }
  return sprites;
}

std::optional<FoundEmoji> find_emoji() {
  for (const char* place : kUsualPlaces) {
    if (std::error_code unreadable; !std::filesystem::exists(place, unreadable)) continue;
    try {
      return FoundEmoji{place, load_emoji(place)};
    } catch (const Error&) {
      // Some systems install outlines (COLR) under this name: as good as no font.
    }
  }
  return std::nullopt;
}

}  // namespace clip
