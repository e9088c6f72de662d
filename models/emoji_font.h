// Colour bitmaps of an emoji font (Noto Color Emoji: art under the Apache licence 2.0, font under
// the SIL Open Font License 1.1), read by FreeType.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/sprite.h"

namespace clip {

/// The Debian package that holds the font.
inline constexpr const char* kEmojiFontPackage = "fonts-noto-color-emoji";

/// The glyph of each entry of kEmojiList, as large as the font has it (136 x 128 for Noto).
/// throws    clip::Error if the file is no font, has no colour bitmaps, or lacks one of the glyphs
std::vector<Sprite> load_emoji(const std::string& font);

/// The first of the usual places where a usable font lies, and its glyphs.
struct FoundEmoji {
  std::string font;
  std::vector<Sprite> sprites;
};
std::optional<FoundEmoji> find_emoji();

}  // namespace clip
