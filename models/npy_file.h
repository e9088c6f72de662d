// NumPy's file of one array, version 1.0, written row by row.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "models/atomic_file.h"

namespace clip {

/// A float32 array [rows, width] whose number of rows is known at the end: the header keeps room for
/// it. Without commit() there is no file of this name. Every member throws clip::Error that names
/// the path and the reason.
/// source    numpy/lib/format.py, format 1.0
class NpyRows {
 public:
  NpyRows(const std::string& path, int64_t width);

  /// values    whole rows, [N, width]
  void append(std::span<const float> values);
  void commit();

  int64_t rows() const { return rows_; }

 private:
  AtomicFile file_;
  int64_t width_;
  int64_t rows_ = 0;
};

}  // namespace clip
