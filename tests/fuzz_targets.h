// The kinds of files that strangers give us: what reads them, and inputs to damage.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/scratch_folder.h"

namespace clip {

struct FuzzTarget {
  std::string ending;                                 ///< of the file's name
  std::function<void(const std::string& path)> read;  ///< throws clip::Error if it is damaged
  std::function<std::vector<std::string>(const ScratchFolder&)> seeds;  ///< made on the spot
};

const std::map<std::string, FuzzTarget>& fuzz_targets();  ///< by kind

}  // namespace clip
