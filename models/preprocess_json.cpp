// open_clip's preprocess_cfg, written and read, and Hugging Face's preprocessor_config.json, read.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "engine/check.h"
#include "models/preprocess.h"
#include "models/strict_json.h"

namespace clip {

using nlohmann::json;

namespace {

template <class Value>
using Names = std::vector<std::pair<json, Value>>;

// The first name of a value is the one that is written.
const Names<Interpolation> kInterpolations = {
    {"bicubic", Interpolation::kBicubic},
    {"bilinear", Interpolation::kBilinear},
    {"random", Interpolation::kBicubic}};  // open_clip: a choice in training, bicubic afterwards
const Names<ResizeMode> kResizeModes = {{"shortest", ResizeMode::kShortest},
                                        {"longest", ResizeMode::kLongest},
                                        {"squash", ResizeMode::kSquash}};
const Names<CropRounding> kCropRoundings = {{"half_to_even", CropRounding::kHalfToEven},
                                            {"down", CropRounding::kDown}};
// Numbers of PIL.Image.Resampling.
const Names<Interpolation> kResamples = {{3, Interpolation::kBicubic},
                                         {2, Interpolation::kBilinear}};

template <class Value>
const json& name_of(const Names<Value>& names, Value value) {
  return std::find_if(names.begin(), names.end(),
                      [&](const auto& pair) { return pair.second == value; })
      ->first;
}

/// The fields of one object; absent and null ones have the value given beside them.
class Fields {
 public:
  Fields(const json& object, std::string name, const std::string& origin)
      : object_(object), name_(std::move(name)), origin_(origin) {
    CLIP_CHECK(object.is_object(), origin_, ": ", name_, " must be an object, got ", shown(object));
  }

  const json* find(const char* field) const {
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  template <class Value>
  Value choice(const char* field, const Names<Value>& names, Value absent) const {
    const json* given = find(field);
    if (given == nullptr) return absent;
    std::string known;
    for (const auto& [name, value] : names) {
      if (*given == name) return value;
      known += (known.empty() ? "" : " or ") + name.dump();
    }
    fail(field, concat("must be ", known), *given);
  }

  int64_t whole(const char* field, int64_t largest, int64_t absent) const {
    const json* given = find(field);
    if (given == nullptr) return absent;
    if (!given->is_number_unsigned() || given->get<uint64_t>() > static_cast<uint64_t>(largest))
      fail(field, concat("must be a whole number up to ", largest), *given);
    return given->get<int64_t>();
  }

  bool flag(const char* field, bool absent) const {
    const json* given = find(field);
    if (given == nullptr) return absent;
    if (!given->is_boolean()) fail(field, "must be true or false", *given);
    return given->get<bool>();
  }

  double positive(const char* field, double absent) const {
    const json* given = find(field);
    if (given == nullptr) return absent;
    if (!given->is_number() || !is_positive(given->get<double>()))
      fail(field, "must be a positive number", *given);
    return given->get<double>();
  }

  /// Three numbers, or one for all channels.
  std::array<double, 3> channels(const char* field, const std::array<double, 3>& absent,
                                 bool must_be_positive) const {
    const json* given = find(field);
    if (given == nullptr) return absent;
    std::array<double, 3> values{};
    for (size_t c = 0; c < 3; ++c) {
      const bool is_list = given->is_array() && given->size() == 3;
      const json& value = is_list ? (*given)[c] : *given;
      if (!value.is_number()) fail(field, "must be three numbers", *given);
      values[c] = value.get<double>();
      // What becomes 0 or infinite as a float would make every pixel infinite.
      const auto single = static_cast<float>(values[c]);
      if (!std::isfinite(single) || (must_be_positive && !is_positive(single)))
        fail(field, must_be_positive ? "must be positive" : "must be finite", *given);
    }
    return values;
  }

  [[noreturn]] void fail(const char* field, const std::string& problem, const json& value) const {
    throw Error(concat(origin_, ": ", name_, name_.empty() ? "" : ".", field, " ", problem,
                       ", got ", shown(value)));
  }

 private:
  static bool is_positive(double value) { return value > 0 && std::isfinite(value); }

  const json& object_;
  std::string name_;
  const std::string& origin_;
};

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
  const Fields fields(object, "preprocess_cfg", origin);
  Preprocess rules;
  fields.choice("mode", Names<bool>{{"RGB", true}}, true);
  rules.mean = fields.channels("mean", rules.mean, false);
  rules.std = fields.channels("std", rules.std, true);
  rules.interpolation = fields.choice("interpolation", kInterpolations, rules.interpolation);
  rules.resize_mode = fields.choice("resize_mode", kResizeModes, rules.resize_mode);
  rules.fill_color = static_cast<uint8_t>(fields.whole("fill_color", 255, 0));
  rules.short_side = fields.whole("short_side", kMaxSide, 0);
  rules.crop_rounding = fields.choice("crop_rounding", kCropRoundings, rules.crop_rounding);
  return rules;
}

Preprocess preprocess_from_hugging_face(const std::string& text, const std::string& origin,
                                        int64_t image_size) {
  const json whole = parse_json(text, origin);
  const Fields fields(whole, "", origin);
  for (const char* field : {"image_processor_type", "feature_extractor_type"}) {
    const json* type = fields.find(field);
    if (type != nullptr && !(type->is_string() && type->get<std::string>().starts_with("CLIP")))
      fields.fail(field, "must be CLIP's", *type);
  }
  fields.choice("do_resize", Names<bool>{{true, true}}, true);
  fields.choice("do_pad", Names<bool>{{false, false}}, false);
  const bool crops = fields.flag("do_center_crop", true);
  /// 224, {"shortest_edge": 224}, or a square of {"height": 224, "width": 224}
  const auto side = [&](const char* field, const char* part) -> int64_t {
    const json* size = fields.find(field);
    if (size == nullptr) return 224;
    if (!size->is_object()) return fields.whole(field, kMaxSide, 0);
    const Fields parts(*size, field, origin);
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
  if (fields.flag("do_normalize", true)) {
    rules.mean = fields.channels("image_mean", rules.mean, false);
    rules.std = fields.channels("image_std", rules.std, true);
  } else {
    rules.mean = {0, 0, 0};
    rules.std = {1, 1, 1};
  }
  const bool rescales = fields.flag("do_rescale", true);
  const double scale = rescales ? 255 * fields.positive("rescale_factor", 1.0 / 255) : 255;
  // (value * factor - mean) / std = (value / 255 - mean / scale) / (std / scale). Files write the
  // factor with all its digits, so CLIP's own has a scale of one and changes no bit.
  if (std::abs(scale - 1) > 1e-9) {
    for (double& value : rules.mean) value /= scale;
    for (double& value : rules.std) value /= scale;
  }
  return rules;
}

}  // namespace clip
