#include "models/npy_file.h"

#include <bit>

#include "engine/check.h"

namespace clip {
namespace {

static_assert(std::endian::native == std::endian::little, "'<f4' is written as it lies in memory");

/// As long for every count: two numbers of 64 bits fit into 128 bytes.
std::string header(int64_t rows, int64_t width) {
  constexpr size_t kBytes = 128, kPreamble = 10;  // the preamble ends with the length of the rest
  std::string text = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, kBytes - kPreamble, 0};
  text += concat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", width, "), }");
  text.resize(kBytes - 1, ' ');
  return text + '\n';
}

}  // namespace

NpyRows::NpyRows(const std::string& path, int64_t width) : file_(path), width_(width) {
  const std::string start = header(0, width);
  file_.write(start.data(), std::ssize(start));
}

void NpyRows::append(std::span<const float> values) {
  const int64_t count = std::ssize(values);
  CLIP_CHECK(count % width_ == 0, "[NpyRows] rows have ", width_, " values, got ", count,
             " values at once");
  file_.write(values.data(), static_cast<int64_t>(values.size_bytes()));
  rows_ += count / width_;
}

void NpyRows::commit() {
  const std::string whole = header(rows_, width_);
  file_.rewrite(0, whole.data(), std::ssize(whole));
  file_.commit();
}

}  // namespace clip
