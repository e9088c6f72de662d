// How pictures become the squares that an image tower was trained on.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "autograd/ops.h"
#include "models/image.h"

namespace clip {

enum class Interpolation { kBicubic, kBilinear };

enum class ResizeMode {
  kShortest,  ///< short side to the target, centre crop
  kLongest,   ///< long side to the target, the rest filled with one grey
  kSquash,    ///< both sides to the target
};

/// Where the crop begins if as many pixels cannot be cut off on both sides.
enum class CropRounding {
  kHalfToEven,  ///< torchvision, and so openai/CLIP and open_clip
  kDown,        ///< Hugging Face
};

/// What a checkpoint says about its pictures: open_clip's preprocess_cfg, or what Hugging Face's
/// preprocessor_config.json says, in the same terms. The defaults are CLIP's own.
struct Preprocess {
  /// Of values from 0 to 1, by channel; kPixelMean and kPixelStd as other programs write them.
  std::array<double, 3> mean = {0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> std = {0.26862954, 0.26130258, 0.27577711};
  Interpolation interpolation = Interpolation::kBicubic;
  ResizeMode resize_mode = ResizeMode::kShortest;
  int64_t short_side = 0;  ///< kShortest: before the crop; 0 is the crop's own side
  CropRounding crop_rounding = CropRounding::kHalfToEven;
  uint8_t fill_color = 0;  ///< kLongest

  PixelStatistics statistics() const;
  bool operator==(const Preprocess&) const = default;
};

/// The evaluation transform up to the pixel statistics, which the image tower applies. Only the
/// pixels of the result are ever computed.
///
/// returns [size, size, 3]
/// throws  clip::Error if the picture has no pixels, or is so narrow that kLongest leaves no row
/// source  open_clip transform.py, image_transform_v2 with is_train false, of RGB pictures
Image prepare_image(const Image& image, int64_t size, const Preprocess& rules);

/// preprocess_cfg of open_clip's configuration, for pictures of size x size. Fields that open_clip
/// does not know, and passes over, stand there only if they differ from the default.
nlohmann::ordered_json to_json(const Preprocess& rules, int64_t size);

/// Reads preprocess_cfg; absent and null fields have their defaults.
/// throws clip::Error that names `origin` and the field if its value makes no sense
Preprocess preprocess_from_open_clip(const nlohmann::json& object, const std::string& origin);

/// Reads Hugging Face's preprocessor_config.json (CLIPImageProcessor, as Pillow carries it out) for
/// a tower of `image_size`. rescale_factor is folded into mean and std.
/// throws clip::Error that names `origin` and the field if its value makes no sense, or asks for
/// another processing
Preprocess preprocess_from_hugging_face(const std::string& json, const std::string& origin,
                                        int64_t image_size);

/// The same from the "image_processor" of Hugging Face's processor_config.json; nothing if it has
/// none, as those from before transformers 5.
std::optional<Preprocess> preprocess_from_processor(const std::string& json,
                                                    const std::string& origin, int64_t image_size);

/// The former, for pictures of size x size. Hugging Face's crop begins where kDown has it, whatever
/// the rules say: a pixel off where the two differ.
/// throws clip::Error if CLIPImageProcessor has no words for the rules (kLongest)
std::string to_preprocessor_json(const Preprocess& rules, int64_t size);

}  // namespace clip
