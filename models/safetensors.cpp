#include "models/safetensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "models/atomic_file.h"
#include "models/strict_json.h"

namespace clip {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr const char* kMetadata = "__metadata__";

int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, int64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

// One tensor's description on its way out of the header.
class EntryReader {
 public:
  EntryReader(const std::string& path, const std::string& name, const json& info)
      : path_(path), name_(name), info_(info) {}

  SafetensorsEntry read(const std::byte* data, int64_t data_bytes, int64_t& begin) const {
    check(info_.is_object(), "is described by ", shown(info_), ", an object expected");
    SafetensorsEntry entry;
    const json& dtype = field("dtype");
    check(dtype.is_string(), "has dtype ", shown(dtype), ", a string expected");
    entry.dtype = dtype.get<std::string>();
    check(element_bytes(entry.dtype) > 0, "has the unknown dtype ", shown(dtype));
    const json& shape = field("shape");
    check(shape.is_array(), "has shape ", shown(shape), ", a list expected");
    for (const json& size : shape) entry.shape.push_back(whole_number(size, "shape", shape));
    const json& offsets = field("data_offsets");
    check(offsets.is_array() && offsets.size() == 2, "has data_offsets ", shown(offsets),
          ", [begin, end] expected");
    begin = whole_number(offsets[0], "data_offsets", offsets);
    const int64_t end = whole_number(offsets[1], "data_offsets", offsets);
    check(begin <= end && end <= data_bytes, "lies at bytes ", begin, " to ", end,
          ", which is not within the ", data_bytes, " bytes of data (cut short?)");
    entry.bytes = end - begin;
    const int64_t wanted = byte_count(entry, shape);
    check(entry.bytes == wanted, "of dtype ", entry.dtype, " and shape ", shown(shape), " needs ",
          wanted, " bytes, has ", entry.bytes);
    entry.data = data + begin;
    return entry;
  }

 private:
  template <class... Parts>
  void check(bool condition, const Parts&... problem) const {
    CLIP_CHECK(condition, path_, ": tensor ", shown(name_), " ", problem...);
  }

  const json& field(const char* key) const {
    const auto found = info_.find(key);
    check(found != info_.end(), "has no ", key);
    return *found;
  }

  int64_t whole_number(const json& value, const char* what, const json& list) const {
    // A number that is negative, fractional or beyond 64 bits is no unsigned one for the parser.
    check(value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{INT64_MAX}, "has ", what,
          " ", shown(list), ", whole numbers from 0 expected");
    return value.get<int64_t>();
  }

  int64_t byte_count(const SafetensorsEntry& entry, const json& shape) const {
    int64_t bytes = element_bytes(entry.dtype);
    bool fits = true;
    for (int64_t size : entry.shape) fits = fits && !__builtin_mul_overflow(bytes, size, &bytes);
    check(fits, "has shape ", shown(shape), ", which overflows");
    return bytes;
  }

  const std::string& path_;
  const std::string& name_;
  const json& info_;
};

std::map<std::string, std::string> read_metadata(const json& object, const std::string& path) {
  CLIP_CHECK(object.is_object(), path, ": ", kMetadata, " must be an object, got ", shown(object));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : object.items()) {
    CLIP_CHECK(value.is_string(), path, ": ", kMetadata, " ", shown(key), " must be a string, got ",
               shown(value));
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// The tensors must fill the data from first to last byte: no gap could hide, no two could overlap.
void check_coverage(const std::vector<std::pair<int64_t, int64_t>>& ranges,
                    const std::vector<std::string>& names, int64_t data_bytes,
                    const std::string& path) {
  std::vector<size_t> order(ranges.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ranges[a] < ranges[b]; });
  int64_t place = 0;
  for (size_t i : order) {
    CLIP_CHECK(ranges[i].first == place, path, ": tensor ", shown(names[i]), " begins at byte ",
               ranges[i].first, " of the data, ",
               ranges[i].first < place ? "inside" : "after a gap behind",
               " the tensor before it, which ends at ", place);
    place = ranges[i].second;
  }
  CLIP_CHECK(place == data_bytes, path, ": the tensors end at byte ", place,
             " of the data, the file at ", data_bytes);
}

// IEEE half precision. Exact: every half is a float, halves below 2^-14 become normal floats.
float half_to_float(uint16_t half) {
  const uint32_t exponent = (half >> 10) & 31u, mantissa = half & 1023u;
  const uint32_t sign = static_cast<uint32_t>(half >> 15) << 31;
  const uint32_t normal = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
  const uint32_t tiny = std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f);
  return std::bit_cast<float>(sign | (exponent == 0 ? tiny : normal));
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Elements may lie at any address, so each is copied out.
template <class Stored, class To, class Convert>
void convert_elements(const std::byte* from, int64_t bytes, void* to, const Convert& convert) {
  constexpr int64_t kBytes = sizeof(Stored);
  To* result = static_cast<To*>(to);
  for (int64_t i = 0; i < bytes / kBytes; ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * kBytes, sizeof stored);
    result[i] = static_cast<To>(convert(stored));
  }
}

template <class To>
void read_as(const SafetensorsEntry& entry, void* to) {
  const auto same = [](auto value) { return value; };
  if (entry.dtype == "F16") {
    convert_elements<uint16_t, To>(entry.data, entry.bytes, to, half_to_float);
  } else if (entry.dtype == "BF16") {
    convert_elements<uint16_t, To>(entry.data, entry.bytes, to, bfloat16_to_float);
  } else if (entry.dtype == "F32") {
    convert_elements<float, To>(entry.data, entry.bytes, to, same);
  } else if (entry.dtype == "I64") {
    convert_elements<int64_t, To>(entry.data, entry.bytes, to, same);
  } else {
    convert_elements<double, To>(entry.data, entry.bytes, to, same);
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const FileDescriptor file = open_regular_file(path, size_);
  CLIP_CHECK(size_ > kLengthBytes, path, ": no safetensors file, ", size_,
             " bytes are too few for a header");
  const size_t mapped = static_cast<size_t>(size_);
  void* const address = ::mmap(nullptr, mapped, PROT_READ, MAP_PRIVATE, file.number(), 0);
  CLIP_CHECK(address != MAP_FAILED, "cannot map ", path, ": ",
             std::generic_category().message(errno));
  bytes_ = {static_cast<const std::byte*>(address),
            [mapped](const std::byte* bytes) { ::munmap(const_cast<std::byte*>(bytes), mapped); }};

  uint64_t length = 0;
  std::memcpy(&length, bytes_.get(), sizeof length);
  CLIP_CHECK(length <= static_cast<uint64_t>(kMaxHeader), path,
             ": no safetensors file, its header would be ", length, " bytes long");
  const int64_t header_bytes = static_cast<int64_t>(length);
  CLIP_CHECK(header_bytes <= size_ - kLengthBytes, path, ": cut short, the header needs ",
             header_bytes, " bytes, the file has ", size_ - kLengthBytes);
  const std::byte* const data = bytes_.get() + kLengthBytes + header_bytes;
  const int64_t data_bytes = size_ - kLengthBytes - header_bytes;

  const auto* text = reinterpret_cast<const char*>(bytes_.get() + kLengthBytes);
  const json header = parse_json({text, static_cast<size_t>(length)}, path + " (header)");
  CLIP_CHECK(header.is_object(), path, ": no safetensors file, its header is no JSON object");
  std::vector<std::pair<int64_t, int64_t>> ranges;
  std::vector<std::string> names;
  for (const auto& [name, info] : header.items()) {
    if (name == kMetadata) {
      metadata_ = read_metadata(info, path);
      continue;
    }
    int64_t begin = 0;
    SafetensorsEntry entry = EntryReader(path, name, info).read(data, data_bytes, begin);
    ranges.emplace_back(begin, begin + entry.bytes);
    names.push_back(name);
    entries_[name] = std::move(entry);
  }
  check_coverage(ranges, names, data_bytes, path);
}

const SafetensorsEntry* SafetensorsFile::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

void SafetensorsFile::check_float(const SafetensorsEntry& entry, const std::string& name) const {
  const bool is_float =
      entry.dtype == "F16" || entry.dtype == "BF16" || entry.dtype == "F32" || entry.dtype == "F64";
  const bool is_count = entry.dtype == "I64" && entry.shape.empty();  // num_batches_tracked
  CLIP_CHECK(is_float || is_count, path_, ": tensor ", shown(name),
             " must have dtype F16, BF16, F32 or F64, has ", entry.dtype);
}

void SafetensorsFile::read(const SafetensorsEntry& entry, const std::string& name, DType to_dtype,
                           void* to) const {
  check_float(entry, name);
  if (to_dtype == DType::kF32) {
    read_as<float>(entry, to);
  } else if (to_dtype == DType::kF64) {
    read_as<double>(entry, to);
  } else {
    throw Error(concat(path_, ": tensor ", shown(name), " of dtype ", entry.dtype,
                       " can be read as f32 or f64, not as ", to_dtype));
  }
}

namespace {

const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF64:
      return "F64";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
  }
  throw Error("[write_safetensors] unknown dtype");
}

int64_t byte_count(const SafetensorsItem& item) {
  int64_t bytes = size_of(item.dtype);
  for (int64_t size : item.shape) bytes *= size;
  return bytes;
}

std::string header_text(const std::vector<const SafetensorsItem*>& items,
                        const std::map<std::string, std::string>& metadata,
                        const std::string& path) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t place = 0;
  for (const SafetensorsItem* item : items) {
    const int64_t end = place + byte_count(*item);
    header[item->name] = {
        {"dtype", dtype_name(item->dtype)}, {"shape", item->shape}, {"data_offsets", {place, end}}};
    place = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    throw Error(concat("cannot write ", path, ": a name or a metadata text is no valid UTF-8"));
  }
  text.append((8 - text.size() % 8) % 8, ' ');  // so that the numbers are aligned
  return text;
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const SafetensorsItem*> ordered;
  std::set<std::string> names = {kMetadata};
  for (const SafetensorsItem& item : items) {
    CLIP_CHECK(names.insert(item.name).second, "cannot write ", path, ": the tensor name ",
               shown(item.name), " is taken");
    ordered.push_back(&item);
  }
  // Wide elements first: with one dtype this is the order of names, with several each tensor is
  // aligned to its elements.
  std::sort(ordered.begin(), ordered.end(), [](const auto* a, const auto* b) {
    const int64_t width_a = size_of(a->dtype), width_b = size_of(b->dtype);
    return width_a != width_b ? width_a > width_b : a->name < b->name;
  });

  const std::string header = header_text(ordered, metadata, path);
  const uint64_t length = header.size();
  AtomicFile file(path);
  file.write(&length, sizeof length);
  file.write(header.data(), static_cast<int64_t>(header.size()));
  std::vector<std::byte> buffer;
  for (const SafetensorsItem* item : ordered) {
    const int64_t bytes = byte_count(*item);
    const void* data = item->data;
    if (data == nullptr && bytes > 0) {
      CLIP_CHECK(item->copy_to_host != nullptr, "[write_safetensors] tensor ", shown(item->name),
                 " has no data");
      buffer.resize(static_cast<size_t>(bytes));
      item->copy_to_host(buffer.data());
      data = buffer.data();
    }
    file.write(data, bytes);
  }
  file.commit();
}

}  // namespace clip
