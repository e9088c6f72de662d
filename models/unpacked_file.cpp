#include "models/unpacked_file.h"

#include <archive.h>
#include <archive_entry.h>

#include <memory>
#include <vector>

#include "engine/check.h"

namespace clip {

std::string read_unpacked(const std::string& path, size_t most_bytes) {
  const std::unique_ptr<archive, int (*)(archive*)> file(archive_read_new(), archive_read_free);
  const auto check = [&](la_ssize_t status) {
    if (status >= ARCHIVE_WARN) return;
    const char* reason = archive_error_string(file.get());
    throw Error(concat(path, ": cannot be read: ", reason ? reason : "unknown error"));
  };
  check(archive_read_support_filter_gzip(file.get()));
  check(archive_read_support_format_raw(file.get()));
  check(archive_read_support_format_empty(file.get()));
  check(archive_read_open_filename(file.get(), path.c_str(), 1 << 16));
  archive_entry* entry = nullptr;
  const int header = archive_read_next_header(file.get(), &entry);
  check(header);
  std::string bytes;
  if (header == ARCHIVE_EOF) return bytes;
  std::vector<char> chunk(1 << 16);
  for (;;) {
    const la_ssize_t count = archive_read_data(file.get(), chunk.data(), chunk.size());
    check(count);
    if (count <= 0) return bytes;
    bytes.append(chunk.data(), static_cast<size_t>(count));
    CLIP_CHECK(bytes.size() <= most_bytes, path, ": expected at most ", most_bytes,
               " bytes, found more");
  }
}

}  // namespace clip
