// Small data sets for tests: pictures told apart by one value, tar shards, and what errors say.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "models/dataset.h"
#include "tests/scratch_folder.h"

namespace clip {

using Strings = std::vector<std::string>;

/// Both, one after the other.
inline Strings with(Strings first, const Strings& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

/// A picture of one pixel, told apart by its red value; decoders go by the bytes, not by the name.
inline std::string picture(int red) {
  std::string bytes = "P6\n1 1\n255\n";
  bytes += {static_cast<char>(red), 0, 0};
  return bytes;
}

inline int red_of(const Sample& sample) { return sample.image.pixels.at(0); }

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

struct Member {
  std::string name;
  std::string bytes;
};

/// Writes a shard, compressed if `filter` is one of ARCHIVE_FILTER_..., and returns its path.
inline std::string write_tar(const ScratchFolder& folder, const std::string& name,
                             const std::vector<Member>& members, int filter = ARCHIVE_FILTER_NONE) {
  const std::string path = folder.path(name);
  const std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
  archive_write_set_format_pax_restricted(writer.get());
  archive_write_add_filter(writer.get(), filter);
  EXPECT_EQ(archive_write_open_filename(writer.get(), path.c_str()), ARCHIVE_OK);
  for (const Member& member : members) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), member.name.c_str());
    archive_entry_set_size(entry.get(), static_cast<int64_t>(member.bytes.size()));
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    // It warns of a name that is not ASCII, and stores it as it is.
    EXPECT_GE(archive_write_header(writer.get(), entry.get()), ARCHIVE_WARN);
    archive_write_data(writer.get(), member.bytes.data(), member.bytes.size());
  }
  EXPECT_EQ(archive_write_close(writer.get()), ARCHIVE_OK);
  return path;
}

}  // namespace clip
