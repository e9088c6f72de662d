#include "apps/common/option_values.h"

#include <filesystem>

namespace po = boost::program_options;

namespace clip {

void add_device_options(po::options_description& options) {
  const auto text = [](const char* value) {
    return po::value<std::string>()->default_value(value);
  };
  // clang-format off
  options.add_options()
    ("precision", text("fp32"), "fp32, bf16, or auto: bf16 where the device has instructions for it")
    ("device", text("auto"), "auto, cpu or cuda[:i]");
  // clang-format on
}

int64_t at_least(int64_t least, const po::variables_map& values, const std::string& option,
                 int64_t most) {
  const auto value = values[option].as<int64_t>();
  if (value < least)
    throw UsageError(concat("--", option, " must be at least ", least, ", got ", value));
  if (value > most)
    throw UsageError(concat("--", option, " must be at most ", most, ", got ", value));
  return value;
}

double within(double low, double high, const po::variables_map& values, const std::string& option) {
  const auto value = values[option].as<double>();
  if (!(low <= value && value <= high))
    throw UsageError(concat("--", option, " must be from ", low, " to ", high, ", got ", value));
  return value;
}

void check_output(const std::string& option, const std::string& path,
                  const std::vector<std::string>& inputs, bool overwrite) {
  std::error_code ignored;
  for (const std::string& input : inputs)
    if (std::filesystem::equivalent(path, input, ignored))
      throw UsageError(concat(option, " would replace its own input, ", path));
  if (!overwrite && std::filesystem::exists(path, ignored))
    throw UsageError(concat(path, " exists; --overwrite replaces it"));
}

}  // namespace clip
