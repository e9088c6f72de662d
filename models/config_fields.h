// Configuration files are read field by field, and every error names file, field and value.
#pragma once

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/check.h"
#include "models/strict_json.h"

namespace clip {

/// What the values of a field with few values mean; the first name of a meaning is written.
template <class Meaning>
using FieldNames = std::vector<std::pair<nlohmann::json, Meaning>>;

/// One object of the file, whose fields are taken one by one. Null is a value like others, but for
/// the functions that say so.
class ConfigFields {
 public:
  /// name    of the object in errors; empty: the whole file
  ConfigFields(const nlohmann::json& object, std::string name, const std::string& origin);

  int64_t size(const char* field, int64_t absent);
  int64_t required_size(const char* field);
  /// 224 or [224, 224]
  int64_t side(const char* field, int64_t absent);
  /// As many whole numbers as the field has; empty where it is no list.
  std::vector<int64_t> sizes(const char* field);
  double number(const char* field, double absent);
  bool flag(const char* field, bool absent);
  nlohmann::json object(const char* field);

  /// Null if the field is absent or null.
  const nlohmann::json* find(const char* field);

  // Of those below, a null field has the value of an absent one.
  std::optional<double> optional_number(const char* field);
  bool optional_flag(const char* field, bool absent);
  double positive(const char* field, double absent);
  int64_t whole(const char* field, int64_t largest, int64_t absent);
  /// Three numbers, or one for all channels.
  std::array<double, 3> channels(const char* field, const std::array<double, 3>& absent,
                                 bool must_be_positive);

  template <class Meaning>
  Meaning choice(const char* field, const FieldNames<Meaning>& names, Meaning absent) {
    const nlohmann::json* given = find(field);
    if (given == nullptr) return absent;
    std::string known;
    for (const auto& [name, meaning] : names) {
      if (*given == name) return meaning;
      known += (known.empty() ? "" : " or ") + name.dump();
    }
    fail(field, "must be " + known, *given);
  }

  /// Fields that ask for something we do not compute, unless they are null or have one of these
  /// values.
  void only(const std::vector<const char*>& fields, const std::vector<nlohmann::json>& accepted);
  /// Fields without effect on what is computed here.
  void ignore(const std::vector<const char*>& fields);
  /// Throws if a field was not taken, unless it is null.
  void refuse_others() const;

  [[noreturn]] void fail(const std::string& field, const std::string& problem,
                         const nlohmann::json& value) const;

 private:
  std::string path(const std::string& field) const;
  const nlohmann::json* take(const char* field);
  int64_t whole_number(const char* field, const nlohmann::json& value) const;

  const nlohmann::json& object_;
  std::string name_;
  const std::string& origin_;
  std::set<std::string> taken_;
};

}  // namespace clip
