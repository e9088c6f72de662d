// Configuration files are read field by field, and every error names file, field and value.
#pragma once

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/check.h"
#include "models/strict_json.h"

namespace clip {

/// One object of the file, whose fields are taken one by one; what is left at the end is refused.
class ConfigFields {
 public:
  ConfigFields(const nlohmann::json& object, std::string name, const std::string& origin)
      : object_(object), name_(std::move(name)), origin_(origin) {
    if (!object_.is_object()) fail(name_, "must be an object", object_);
  }

  int64_t size(const char* field, int64_t absent) {
    const nlohmann::json* value = take(field);
    return value == nullptr ? absent : whole_number(field, *value);
  }

  int64_t required_size(const char* field) {
    const nlohmann::json* value = take(field);
    CLIP_CHECK(value != nullptr, origin_, ": ", path(field), " is missing");
    return whole_number(field, *value);
  }

  /// 224 or [224, 224]
  int64_t side(const char* field, int64_t absent) {
    const nlohmann::json* value = take(field);
    if (value == nullptr) return absent;
    if (!value->is_array()) return whole_number(field, *value);
    if (value->size() != 2 || (*value)[0] != (*value)[1])
      fail(path(field), "must be the side of a square", *value);
    return whole_number(field, (*value)[0]);
  }

  double number(const char* field, double absent) {
    const nlohmann::json* value = take(field);
    if (value == nullptr) return absent;
    if (!value->is_number()) fail(path(field), "must be a number", *value);
    return value->get<double>();
  }

  bool flag(const char* field, bool absent) {
    const nlohmann::json* value = take(field);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) fail(path(field), "must be true or false", *value);
    return value->get<bool>();
  }

  std::string text(const char* field, const std::string& absent) {
    const nlohmann::json* value = take(field);
    if (value == nullptr) return absent;
    if (!value->is_string()) fail(path(field), "must be a string", *value);
    return value->get<std::string>();
  }

  nlohmann::json object(const char* field) {
    const nlohmann::json* value = take(field);
    CLIP_CHECK(value != nullptr, origin_, ": ", path(field), " is missing");
    return *value;
  }

  /// Fields that ask for something we do not compute, unless they have one of these values.
  void only(const std::vector<const char*>& fields, const std::vector<nlohmann::json>& accepted) {
    for (const char* field : fields) {
      const nlohmann::json* value = take(field);
      if (value == nullptr || value->is_null()) continue;
      if (std::find(accepted.begin(), accepted.end(), *value) != accepted.end()) continue;
      fail(path(field), "is supported as " + shown(accepted.front()) + " only", *value);
    }
  }

  /// Fields without effect on what is computed here.
  void ignore(const std::vector<const char*>& fields) {
    for (const char* field : fields) take(field);
  }

  void refuse_others() const {
    for (const auto& [field, value] : object_.items())
      if (!taken_.contains(field) && !value.is_null())
        fail(name_ + "." + field, "is not known here, so the model may not be what it seems",
             value);
  }

 private:
  std::string path(const std::string& field) const { return name_ + "." + field; }

  const nlohmann::json* take(const char* field) {
    taken_.insert(field);
    const auto found = object_.find(field);
    return found == object_.end() ? nullptr : &*found;
  }

  int64_t whole_number(const char* field, const nlohmann::json& value) const {
    if (value.is_array())
      fail(path(field), "must be one whole number (of a ViT; ResNets are not supported)", value);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 62)
      fail(path(field), "must be a whole number", value);
    return value.get<int64_t>();
  }

  [[noreturn]] void fail(const std::string& field, const std::string& problem,
                         const nlohmann::json& value) const {
    throw Error(concat(origin_, ": ", field, " ", problem, ", got ", shown(value)));
  }

  const nlohmann::json& object_;
  std::string name_;
  const std::string& origin_;
  std::set<std::string> taken_;
};

/// CLIP's mean and deviation of red, green and blue, with the digits that other programs write; the
/// nearest floats are ours.
using PixelStatistic = std::array<double, 3>;
inline constexpr PixelStatistic kMeanDigits = {0.48145466, 0.4578275, 0.40821073};
inline constexpr PixelStatistic kDeviationDigits = {0.26862954, 0.26130258, 0.27577711};

/// throws clip::Error that begins with `where` if one of two fields that are present differs by more
/// than 1e-4 from CLIP's
void check_pixel_statistics(const nlohmann::json& object, const char* mean, const char* deviation,
                            const std::string& where);

}  // namespace clip
