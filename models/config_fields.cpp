#include "models/config_fields.h"

#include <cmath>

namespace clip {

using nlohmann::json;

namespace {

bool is_positive(double value) { return value > 0 && std::isfinite(value); }

}  // namespace

ConfigFields::ConfigFields(const json& object, std::string name, const std::string& origin)
    : object_(object), name_(std::move(name)), origin_(origin) {
  CLIP_CHECK(object_.is_object(), origin_, ": ", name_.empty() ? "" : name_ + " ",
             "must be an object, got ", shown(object_));
}

int64_t ConfigFields::size(const char* field, int64_t absent) {
  const json* value = take(field);
  return value == nullptr ? absent : whole_number(field, *value);
}

int64_t ConfigFields::required_size(const char* field) {
  const json* value = take(field);
  CLIP_CHECK(value != nullptr, origin_, ": ", path(field), " is missing");
  return whole_number(field, *value);
}

int64_t ConfigFields::side(const char* field, int64_t absent) {
  const json* value = take(field);
  if (value == nullptr) return absent;
  if (!value->is_array()) return whole_number(field, *value);
  if (value->size() != 2 || (*value)[0] != (*value)[1])
    fail(field, "must be the side of a square", *value);
  return whole_number(field, (*value)[0]);
}

std::vector<int64_t> ConfigFields::sizes(const char* field) {
  std::vector<int64_t> numbers;
  const json* value = take(field);
  if (value == nullptr || !value->is_array()) return numbers;
  if (value->empty()) fail(field, "must not be empty", *value);
  for (const json& number : *value) numbers.push_back(whole_number(field, number));
  return numbers;
}

double ConfigFields::number(const char* field, double absent) {
  const json* value = take(field);
  if (value == nullptr) return absent;
  if (!value->is_number()) fail(field, "must be a number", *value);
  return value->get<double>();
}

bool ConfigFields::flag(const char* field, bool absent) {
  const json* value = take(field);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) fail(field, "must be true or false", *value);
  return value->get<bool>();
}

json ConfigFields::object(const char* field) {
  const json* value = take(field);
  CLIP_CHECK(value != nullptr, origin_, ": ", path(field), " is missing");
  return *value;
}

const json* ConfigFields::find(const char* field) {
  const json* value = take(field);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<double> ConfigFields::optional_number(const char* field) {
  if (find(field) == nullptr) return {};
  return number(field, 0);
}

bool ConfigFields::optional_flag(const char* field, bool absent) {
  return find(field) == nullptr ? absent : flag(field, absent);
}

double ConfigFields::positive(const char* field, double absent) {
  const json* given = find(field);
  if (given == nullptr) return absent;
  if (!given->is_number() || !is_positive(given->get<double>()))
    fail(field, "must be a positive number", *given);
  return given->get<double>();
}

int64_t ConfigFields::whole(const char* field, int64_t largest, int64_t absent) {
  const json* given = find(field);
  if (given == nullptr) return absent;
  if (!given->is_number_unsigned() || given->get<uint64_t>() > static_cast<uint64_t>(largest))
    fail(field, concat("must be a whole number up to ", largest), *given);
  return given->get<int64_t>();
}

std::array<double, 3> ConfigFields::channels(const char* field, const std::array<double, 3>& absent,
                                             bool must_be_positive) {
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

void ConfigFields::only(const std::vector<const char*>& fields, const std::vector<json>& accepted) {
  for (const char* field : fields) {
    const json* value = find(field);
    if (value == nullptr) continue;
    if (std::find(accepted.begin(), accepted.end(), *value) != accepted.end()) continue;
    fail(field, "is supported as " + shown(accepted.front()) + " only", *value);
  }
}

void ConfigFields::ignore(const std::vector<const char*>& fields) {
  for (const char* field : fields) take(field);
}

void ConfigFields::refuse_others() const {
  for (const auto& [field, value] : object_.items())
    if (!taken_.contains(field) && !value.is_null())
      fail(field, "is not known here, so the model may not be what it seems", value);
}

void ConfigFields::fail(const std::string& field, const std::string& problem,
                        const json& value) const {
  throw Error(concat(origin_, ": ", path(field), " ", problem, ", got ", shown(value)));
}

std::string ConfigFields::path(const std::string& field) const {
  return name_.empty() ? field : name_ + "." + field;
}

const json* ConfigFields::take(const char* field) {
  taken_.insert(field);
  const auto found = object_.find(field);
  return found == object_.end() ? nullptr : &*found;
}

int64_t ConfigFields::whole_number(const char* field, const json& value) const {
  if (value.is_array()) fail(field, "must be one whole number", value);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 62)
    fail(field, "must be a whole number", value);
  return value.get<int64_t>();
}

}  // namespace clip
