#include "models/stored_tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <type_traits>

#include "engine/cpu/bfloat16.h"
#include "models/mapped_file.h"

namespace clip {
namespace {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

// Elements may lie at any address, so each is copied out.
template <class Stored, class To, class Convert>
void convert_run(const std::byte* from, int64_t stride, int64_t count, To* to,
                 const Convert& convert) {
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * stride * int64_t{sizeof(Stored)}, sizeof stored);
    to[i] = static_cast<To>(convert(stored));
  }
}

template <class Stored, class To, class Convert>
void convert_chunk(const std::byte* from, int64_t count, To* to, const Convert& convert) {
  if constexpr (std::is_same_v<Stored, To>) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    convert_run<Stored>(from, 1, count, to, convert);
  }
  release_pages({from, static_cast<size_t>(count) * sizeof(Stored)});
}

template <class Stored, class To, class Convert>
void convert_rows(const StoredTensor& tensor, To* to, const Convert& convert) {
  if (tensor.strides.empty()) {
    constexpr int64_t kChunk = 1 << 19;
    const int64_t numel = tensor.numel();
#pragma omp parallel for schedule(dynamic) if (numel > kChunk)
    for (int64_t begin = 0; begin < numel; begin += kChunk)
      convert_chunk<Stored>(tensor.data + begin * int64_t{sizeof(Stored)},
                            std::min(kChunk, numel - begin), to + begin, convert);
    return;
  }
  const size_t rank = tensor.shape.size();
  const int64_t width = rank == 0 ? 1 : tensor.shape[rank - 1];
  const int64_t rows = width == 0 ? 0 : tensor.numel() / width;
  std::vector<int64_t> at(rank, 0);  // of the row; the last axis is the run
  for (int64_t row = 0; row < rows; ++row) {
    int64_t place = 0;
    for (size_t axis = 0; axis + 1 < rank; ++axis) place += at[axis] * tensor.strides[axis];
    convert_run<Stored>(tensor.data + place * int64_t{sizeof(Stored)},
                        rank == 0 ? 1 : tensor.strides[rank - 1], width, to + row * width, convert);
    for (size_t axis = rank - 1; axis-- > 0 && ++at[axis] == tensor.shape[axis];) at[axis] = 0;
  }
  release_pages({tensor.data, static_cast<size_t>(tensor.bytes)});
}

template <class To>
void read_as(const StoredTensor& tensor, To* to) {
  const auto same = [](auto value) { return value; };
  if (tensor.dtype == "F16") {
    convert_rows<uint16_t>(tensor, to, from_half);
  } else if (tensor.dtype == "BF16") {
    convert_rows<BF16>(tensor, to, [](BF16 value) { return to_real(value); });
  } else if (tensor.dtype == "F32") {
    convert_rows<float>(tensor, to, same);
  } else if (tensor.dtype == "I64") {
    convert_rows<int64_t>(tensor, to, same);
  } else {
    convert_rows<double>(tensor, to, same);
  }
}

}  // namespace

int64_t StoredTensor::numel() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

bool StoredTensor::is_readable() const {
  const bool is_count = dtype == "I64" && shape.empty();
  return dtype == "F16" || dtype == "BF16" || dtype == "F32" || dtype == "F64" || is_count;
}

StoredTensor StoredTensor::transposed() const {
  CLIP_CHECK(shape.size() == 2, "[transposed] a matrix is needed, got ", shape.size(), " axes");
  StoredTensor turned = *this;
  if (turned.strides.empty()) turned.strides = {shape[1], 1};
  std::swap(turned.shape[0], turned.shape[1]);
  std::swap(turned.strides[0], turned.strides[1]);
  return turned;
}

std::vector<int64_t> sizes_of(const Shape& shape) {
  std::vector<int64_t> sizes;
  for (int axis = 0; axis < shape.rank(); ++axis) sizes.push_back(shape[axis]);
  return sizes;
}

int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

void read_numbers(const StoredTensor& tensor, DType to_dtype, void* to) {
  CLIP_CHECK(tensor.is_readable() && (to_dtype == DType::kF32 || to_dtype == DType::kF64),
             "[read_numbers] ", tensor.dtype, " cannot be read as ", to_dtype);
  if (to_dtype == DType::kF32) {
    read_as(tensor, static_cast<float*>(to));
  } else {
    read_as(tensor, static_cast<double*>(to));
  }
}

float from_half(uint16_t bits) {
  const uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
  const uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
  const uint32_t normal = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
  // Halves below 2^-14 become normal floats.
  const uint32_t tiny = std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  return std::bit_cast<float>(sign | (exponent == 0 ? tiny : normal));
}

uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  // 65520 lies halfway between the largest half and what would be the next.
  if (magnitude >= std::bit_cast<uint32_t>(65520.0f)) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below 2^-14: a whole number of 2^-24
    const float steps = std::nearbyint(std::bit_cast<float>(magnitude) * 0x1p24f);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace clip
