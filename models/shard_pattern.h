// Names of shards in one line.
#pragma once

#include <string>
#include <vector>

namespace clip {

/// Expands WebDataset's patterns in order: "a-{0000..0009}.tar" (digits as wide as the first
/// number's), "{a,b}.tar", both nested, several joined by "::".
///
/// throws    clip::Error if a brace is not closed, a pair of braces holds neither a range nor a
/// list,
///           a part is empty, or more than a million names come out
std::vector<std::string> expand_shard_pattern(const std::string& pattern);

}  // namespace clip
