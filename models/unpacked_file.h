// Whole files that may be compressed. Private to models/.
#pragma once

#include <cstddef>
#include <string>

namespace clip {

/// The file's bytes, unpacked if it is gzipped: a packed bomb must not fill the memory.
/// throws clip::Error that names the path: not there, damaged, or more than `most_bytes`
std::string read_unpacked(const std::string& path, size_t most_bytes);

}  // namespace clip
