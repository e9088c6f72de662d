// The safetensors format: 8 bytes header length, a JSON header, the numbers. Source:
// huggingface/safetensors README.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "models/mapped_file.h"
#include "models/stored_tensor.h"

namespace clip {

/// A mapped file, checked whole before anything is read from it.
class SafetensorsFile {
 public:
  /// throws clip::Error that names the path and what is wrong: not there, cut short, no JSON,
  /// overlapping or overflowing offsets, sizes that do not match shapes
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, StoredTensor>& entries() const { return entries_; }
  const StoredTensor* find(const std::string& name) const;  ///< null if there is none
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }  ///< "__metadata__"
  const std::string& path() const { return file_.path(); }

  /// Copies an entry to `to` as F32 or F64, converting from F16, BF16, F32 or F64, or from a single
  /// I64, as PyTorch counts batches.
  /// throws clip::Error that names file, tensor and both dtypes if it is no float
  void read(const StoredTensor& entry, const std::string& name, DType to_dtype, void* to) const;

 private:
  MappedFile file_;
  std::map<std::string, StoredTensor> entries_;
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
  std::string stored_as{};  ///< "F16" or "BF16": F32 numbers are rounded to it as they are written
};

/// A tensor of any device, whose memory somebody holds until it is written.
SafetensorsItem item_of(const std::string& name, const Tensor& tensor);

std::string dtype_of(const SafetensorsItem& item);  ///< in the file, e.g. "F32"
int64_t stored_bytes(const SafetensorsItem& item);
/// Hands an item's bytes to `write` in their order.
void write_numbers(const SafetensorsItem& item,
                   const std::function<void(const void* data, int64_t bytes)>& write);

/// Writes a file (wide elements first, then by name) and syncs it; it appears whole or not at all.
/// throws clip::Error that names the path (a full disk included; nothing is left behind), or a name
/// that occurs twice
void write_safetensors(const std::string& path, const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata);

}  // namespace clip
