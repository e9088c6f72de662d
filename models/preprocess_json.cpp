// open_clip's preprocess_cfg and Hugging Face's preprocessor_config.json, written and read.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/check.h"
#include "models/config_fields.h"
#include "models/preprocess.h"
#include "models/strict_json.h"

namespace clip {

using nlohmann::json;

namespace {

const FieldNames<Interpolation> kInterpolations = {
    {"bicubic", Interpolation::kBicubic},
    {"bilinear", Interpolation::kBilinear},
    {"random", Interpolation::kBicubic}};  // open_clip: a choice in training, bicubic afterwards
const FieldNames<ResizeMode> kResizeModes = {{"shortest", ResizeMode::kShortest},
                                             {"longest", ResizeMode::kLongest},
                                             {"squash", ResizeMode::kSquash}};
const FieldNames<CropRounding> kCropRoundings = {{"half_to_even", CropRounding::kHalfToEven},
                                                 {"down", CropRounding::kDown}};
// Numbers of PIL.Image.Resampling.
const FieldNames<Interpolation> kResamples = {{3, Interpolation::kBicubic},
                                              {2, Interpolation::kBilinear}};

template <class Meaning>
const json& name_of(const FieldNames<Meaning>& names, Meaning meaning) {
  return std::find_if(names.begin(), names.end(),
                      [&](const auto& pair) { return pair.second == meaning; })
      ->first;
}

constexpr int64_t kMaxSide = 1 << 14;

}  // namespace

PixelStatistics Preprocess::statistics() const {
  PixelStatistics floats;
  for (size_t c = 0; c < 3; ++c) {
    floats.mean[c] = static_cast<float>(mean[c]);
    floats.std[c] = static_cast<float>(std[c]);
  }
  return floats;
}

nlohmann::ordered_json to_json(const Preprocess& rules, int64_t size) {
  nlohmann::ordered_json object = {{"size", size},
                                   {"mode", "RGB"},
                                   {"mean", rules.mean},
                                   {"std", rules.std},
                                   {"interpolation", name_of(kInterpolations, rules.interpolation)},
                                   {"resize_mode", name_of(kResizeModes, rules.resize_mode)},
                                   {"fill_color", rules.fill_color}};
  if (rules.short_side > 0) object["short_side"] = rules.short_side;
  if (rules.crop_rounding != CropRounding::kHalfToEven)
    object["crop_rounding"] = name_of(kCropRoundings, rules.crop_rounding);
  return object;
}

Preprocess preprocess_from_open_clip(const json& object, const std::string& origin) {
  ConfigFields fields(object, "preprocess_cfg", origin);
  Preprocess rules;
  fields.choice("mode", FieldNames<bool>{{"RGB", true}}, true);
  rules.mean = fields.channels("mean", rules.mean, false);
  rules.std = fields.channels("std", rules.std, true);
  rules.interpolation = fields.choice("interpolation", kInterpolations, rules.interpolation);
  rules.resize_mode = fields.choice("resize_mode", kResizeModes, rules.resize_mode);
  rules.fill_color = static_cast<uint8_t>(fields.whole("fill_color", 255, 0));
  rules.short_side = fields.whole("short_side", kMaxSide, 0);
  rules.crop_rounding = fields.choice("crop_rounding", kCropRoundings, rules.crop_rounding);
  return rules;
}

std::string to_preprocessor_json(const Preprocess& rules, int64_t size) {
  CLIP_CHECK(rules.resize_mode != ResizeMode::kLongest,
             "Hugging Face's CLIPImageProcessor cannot fit whole pictures into a filled square, as "
             "this model's preprocessing does: it can be written for open_clip");
  using ordered = nlohmann::ordered_json;
  const ordered square = {{"height", size}, {"width", size}};
  const bool squashes = rules.resize_mode == ResizeMode::kSquash;
  const int64_t short_side = rules.short_side > 0 ? rules.short_side : size;
  const ordered whole = {{"image_processor_type", "CLIPImageProcessor"},
                         {"do_resize", true},
                         {"size", squashes ? square : ordered{{"shortest_edge", short_side}}},
                         {"resample", name_of(kResamples, rules.interpolation)},
                         {"do_center_crop", !squashes},
                         {"crop_size", square},
                         {"do_convert_rgb", true},
                         {"do_rescale", true},
                         {"rescale_factor", 1.0 / 255},
                         {"do_normalize", true},
                         {"image_mean", rules.mean},
                         {"image_std", rules.std}};
  return whole.dump(2) + "\n";
}

namespace {

// object: CLIPImageProcessor's, which errors call `name`
Preprocess preprocess_from(const json& object, const std::string& name, const std::string& origin,
                           int64_t image_size) {
  ConfigFields fields(object, name, origin);
  for (const char* field : {"image_processor_type", "feature_extractor_type"}) {
    const json* type = fields.find(field);
    if (type != nullptr && !(type->is_string() && type->get<std::string>().starts_with("CLIP")))
      fields.fail(field, "must be CLIP's", *type);
  }
  fields.choice("do_resize", FieldNames<bool>{{true, true}}, true);
  fields.choice("do_pad", FieldNames<bool>{{false, false}}, false);
  const bool crops = fields.optional_flag("do_center_crop", true);
  /// 224, {"shortest_edge": 224}, or a square of {"height": 224, "width": 224}
  const auto side = [&](const char* field, const char* part) -> int64_t {
    const json* size = fields.find(field);
    if (size == nullptr) return 224;
    if (!size->is_object()) return fields.whole(field, kMaxSide, 0);
    ConfigFields parts(*size, field, origin);
    if (parts.whole("height", kMaxSide, 0) != parts.whole("width", kMaxSide, 0) ||
        parts.find(part) == nullptr)
      fields.fail(field, "must be the side of a square", *size);
    return parts.whole(part, kMaxSide, 0);
  };

  Preprocess rules;
  rules.crop_rounding = CropRounding::kDown;
  const json* size = fields.find("size");
  const bool squashes = size != nullptr && size->is_object() && size->contains("height");
  const int64_t resized = side("size", squashes ? "height" : "shortest_edge");
  const int64_t cropped = crops ? side("crop_size", "height") : resized;
  const bool is_known = squashes ? resized == cropped : crops && resized >= cropped;
  CLIP_CHECK(is_known && cropped == image_size, origin, ": size (", resized,
             squashes ? " squashed" : " on the short side", ") and crop_size (",
             crops ? concat(cropped) : "none", ") must make pictures of the model's ", image_size,
             " x ", image_size);
  if (squashes) rules.resize_mode = ResizeMode::kSquash;
  if (!squashes && resized != cropped) rules.short_side = resized;
  rules.interpolation = fields.choice("resample", kResamples, rules.interpolation);
  if (fields.optional_flag("do_normalize", true)) {
    rules.mean = fields.channels("image_mean", rules.mean, false);
    rules.std = fields.channels("image_std", rules.std, true);
  } else {
    rules.mean = {0, 0, 0};
    rules.std = {1, 1, 1};
  }
  const bool rescales = fields.optional_flag("do_rescale", true);
  const double scale = rescales ? 255 * fields.positive("rescale_factor", 1.0 / 255) : 255;
  // (value * factor - mean) / std = (value / 255 - mean / scale) / (std / scale). Files write the
  // factor with all its digits, so CLIP's own has a scale of one and changes no bit.
  if (std::abs(scale - 1) > 1e-9) {
    for (double& value : rules.mean) value /= scale;
    for (double& value : rules.std) value /= scale;
  }
  return rules;
}

}  // namespace

Preprocess preprocess_from_hugging_face(const std::string& text, const std::string& origin,
                                        int64_t image_size) {
  return preprocess_from(parse_json(text, origin), "", origin, image_size);
}

std::optional<Preprocess> preprocess_from_processor(const std::string& text,
                                                    const std::string& origin, int64_t image_size) {
  constexpr const char* kPart = "image_processor";
  const json whole = parse_json(text, origin);
  if (!whole.is_object() || whole.value(kPart, json()).is_null()) return std::nullopt;
  return preprocess_from(whole[kPart], kPart, origin, image_size);
}

}  // namespace clip
