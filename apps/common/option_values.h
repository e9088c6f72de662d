// What the values of options may be, and the options that choose a device.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "engine/check.h"

namespace clip {

/// Adds --precision and --device, which choose_precision() and choose_device() take.
void add_device_options(boost::program_options::options_description& options);

/// The whole number that an option has.
/// throws UsageError that names the option if it is below `least` or above `most`
int64_t at_least(int64_t least, const boost::program_options::variables_map& values,
                 const std::string& option, int64_t most = std::numeric_limits<int64_t>::max());

/// The number that an option has; throws UsageError that names the option if it is not in [low, high].
double within(double low, double high, const boost::program_options::variables_map& values,
              const std::string& option);

/// Whether the file that an option names may be written.
/// throws UsageError if it is one of the program's `inputs`, or is there and not to be overwritten
void check_output(const std::string& option, const std::string& path,
                  const std::vector<std::string>& inputs, bool overwrite);

/// What the word that an option has stands for.
/// throws UsageError that names the option and the words there are
template <class T>
T one_of(const boost::program_options::variables_map& values, const std::string& option,
         const std::map<std::string, T>& words) {
  const std::string given = values[option].as<std::string>();
  const auto found = words.find(given);
  if (found != words.end()) return found->second;
  std::string names;
  for (auto word = words.begin(); word != words.end(); ++word)
    names += (word == words.begin()            ? ""
              : std::next(word) == words.end() ? " or "
                                               : ", ") +
             word->first;
  throw UsageError(concat("--", option, " must be ", names, ", got '", given, "'"));
}

}  // namespace clip
