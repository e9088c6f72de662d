// The safetensors format: 8 bytes header length, a JSON header, the numbers. Source:
// huggingface/safetensors README.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/types.h"

namespace clip {

/// One tensor of a file: where its bytes lie.
struct SafetensorsEntry {
  std::string dtype;  ///< "F32", "F64", "F16", "BF16", "I32", "I64", "U8", ...
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  ///< any alignment; valid as long as the file object
  int64_t bytes = 0;
};

/// A memory-mapped file, checked whole before anything is read from it. Files are replaced by
/// renaming, which leaves a mapping as it was; cutting a mapped file short in place would not.
class SafetensorsFile {
 public:
  /// throws clip::Error that names the path and what is wrong: not there, cut short, no JSON,
  /// overlapping or overflowing offsets, sizes that do not match shapes
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsEntry* find(const std::string& name) const;  ///< null if there is none
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }  ///< "__metadata__"
  const std::string& path() const { return path_; }

  /// throws clip::Error that names file, tensor and dtype if read() cannot convert it
  void check_float(const SafetensorsEntry& entry, const std::string& name) const;

  /// Copies an entry to `to` as F32 or F64, converting from F16, BF16, F32 or F64, or from a single
  /// I64, as PyTorch counts batches.
  /// throws clip::Error that names file, tensor and both dtypes if it is no float
  void read(const SafetensorsEntry& entry, const std::string& name, DType to_dtype, void* to) const;

 private:
  std::string path_;
  std::shared_ptr<const std::byte> bytes_;  // the mapping
  int64_t size_ = 0;
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor to be written: `data` on the host or, where that is null, `copy_to_host`, called when
/// its turn comes with room for its bytes, so that only one such tensor is held at a time.
struct SafetensorsItem {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  std::function<void(void* host)> copy_to_host{};
};

/// Writes a file (wide elements first, then by name) and syncs it; it appears whole or not at all.
/// throws clip::Error that names the path (a full disk included; nothing is left behind), or a name
/// that occurs twice
void write_safetensors(const std::string& path, const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata);

}  // namespace clip
