// A run's report.html: its curves, results, pictures and options, for a browser.
#pragma once

#include <string>

namespace clip {

/// In a run's samples/: what the pictures there show and what the model says of them.
inline constexpr const char* kSampleCaptions = "captions.json";

/// Writes report.html into a run's folder, from its config.json, its log.jsonl and, if they are there,
/// samples/captions.json and its pictures. The page needs no other file and no network.
/// throws clip::Error that names the path if it cannot be written or the others cannot be read
void write_report(const std::string& run);

}  // namespace clip
