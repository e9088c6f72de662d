// The decoders behind decode_image. Private to models/.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "models/image.h"

namespace clip {

inline bool starts_with(std::span<const uint8_t> bytes, std::string_view signature) {
  return bytes.size() >= signature.size() &&
         std::memcmp(bytes.data(), signature.data(), signature.size()) == 0;
}

/// Each as decode_image. decode_jpeg is defined by jpeg_turbo.cpp, or by jpeg_stb.cpp where there
/// is no libjpeg-turbo.
Image decode_jpeg(std::span<const uint8_t> bytes, const std::string& name);
Image decode_gif(std::span<const uint8_t> bytes, const std::string& name);
Image decode_with_stb(std::span<const uint8_t> bytes, const std::string& name);

}  // namespace clip
