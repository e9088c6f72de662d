#include "models/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/backend.h"
#include "engine/cpu/bfloat16.h"
#include "models/atomic_file.h"
#include "models/strict_json.h"

namespace clip {
namespace {

using nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the reference reader's limit
constexpr const char* kMetadata = "__metadata__";

// One tensor's description on its way out of the header.
class EntryReader {
 public:
  EntryReader(const std::string& path, const std::string& name, const json& info)
      : path_(path), name_(name), info_(info) {}

  StoredTensor read(const std::byte* data, int64_t data_bytes, int64_t& begin) const {
    check(info_.is_object(), "is described by ", shown(info_), ", an object expected");
    StoredTensor entry;
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

  int64_t byte_count(const StoredTensor& entry, const json& shape) const {
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

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const int64_t size = std::ssize(file_.bytes());
  CLIP_CHECK(size > kLengthBytes, path, ": no safetensors file, ", size,
             " bytes are too few for a header");
  uint64_t length = 0;
  std::memcpy(&length, file_.bytes().data(), sizeof length);
  CLIP_CHECK(length <= static_cast<uint64_t>(kMaxHeader), path,
             ": no safetensors file, its header would be ", length, " bytes long");
  const int64_t header_bytes = static_cast<int64_t>(length);
  CLIP_CHECK(header_bytes <= size - kLengthBytes, path, ": cut short, the header needs ",
             header_bytes, " bytes, the file has ", size - kLengthBytes);
  const std::byte* const data = file_.bytes().data() + kLengthBytes + header_bytes;
  const int64_t data_bytes = size - kLengthBytes - header_bytes;

  const auto* text = reinterpret_cast<const char*>(file_.bytes().data() + kLengthBytes);
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
    StoredTensor entry = EntryReader(path, name, info).read(data, data_bytes, begin);
    ranges.emplace_back(begin, begin + entry.bytes);
    names.push_back(name);
    entries_[name] = std::move(entry);
  }
  check_coverage(ranges, names, data_bytes, path);
}

const StoredTensor* SafetensorsFile::find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

void SafetensorsFile::read(const StoredTensor& entry, const std::string& name, DType to_dtype,
                           void* to) const {
  CLIP_CHECK(entry.is_readable(), path(), ": tensor ", shown(name),
             " must have dtype F16, BF16, F32 or F64, has ", entry.dtype);
  CLIP_CHECK(to_dtype == DType::kF32 || to_dtype == DType::kF64, path(), ": tensor ", shown(name),
             " of dtype ", entry.dtype, " can be read as f32 or f64, not as ", to_dtype);
  read_numbers(entry, to_dtype, to);
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

int64_t numel(const SafetensorsItem& item) {
  int64_t count = 1;
  for (int64_t size : item.shape) count *= size;
  return count;
}

// The F32 numbers of an item as halves or bfloat16s, some at a time.
void write_rounded(const SafetensorsItem& item, const float* numbers,
                   const std::function<void(const void*, int64_t)>& write) {
  const auto to_bf16 = [](float value) {
    BF16 rounded;
    assign(rounded, value);
    return rounded.bits;
  };
  const auto round = item.stored_as == "F16" ? to_half : +to_bf16;
  constexpr int64_t kChunk = 1 << 16;
  std::vector<uint16_t> chunk;
  for (int64_t begin = 0; begin < numel(item); begin += kChunk) {
    const int64_t count = std::min(kChunk, numel(item) - begin);
    chunk.resize(static_cast<size_t>(count));
    std::transform(numbers + begin, numbers + begin + count, chunk.begin(), round);
    write(chunk.data(), count * int64_t{sizeof(uint16_t)});
  }
}

std::string header_text(const std::vector<const SafetensorsItem*>& items,
                        const std::map<std::string, std::string>& metadata,
                        const std::string& path) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t place = 0;
  for (const SafetensorsItem* item : items) {
    const int64_t end = place + stored_bytes(*item);
    header[item->name] = {
        {"dtype", dtype_of(*item)}, {"shape", item->shape}, {"data_offsets", {place, end}}};
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

SafetensorsItem item_of(const std::string& name, const Tensor& tensor) {
  SafetensorsItem item{.name = name, .dtype = tensor.dtype(), .shape = sizes_of(tensor.shape())};
  if (tensor.backend().device().kind == Device::Kind::kCpu) {
    item.data = tensor.raw();
  } else {
    item.copy_to_host = [tensor](void* host) { tensor.copy_to_host(host); };
  }
  return item;
}

std::string dtype_of(const SafetensorsItem& item) {
  CLIP_CHECK(item.stored_as.empty() || (item.dtype == DType::kF32 &&
                                        (item.stored_as == "F16" || item.stored_as == "BF16")),
             "[dtype_of] tensor ", shown(item.name), " of ", item.dtype, " cannot be stored as ",
             item.stored_as);
  return item.stored_as.empty() ? dtype_name(item.dtype) : item.stored_as;
}

int64_t stored_bytes(const SafetensorsItem& item) {
  return numel(item) * element_bytes(dtype_of(item));
}

void write_numbers(const SafetensorsItem& item,
                   const std::function<void(const void*, int64_t)>& write) {
  std::vector<std::byte> buffer;
  const void* data = item.data;
  if (data == nullptr && numel(item) > 0) {
    CLIP_CHECK(item.copy_to_host != nullptr, "[write_numbers] tensor ", shown(item.name),
               " has no data");
    buffer.resize(static_cast<size_t>(numel(item) * size_of(item.dtype)));
    item.copy_to_host(buffer.data());
    data = buffer.data();
  }
  if (item.stored_as.empty()) {
    write(data, stored_bytes(item));
  } else {
    write_rounded(item, static_cast<const float*>(data), write);
  }
}

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
    const int64_t width_a = element_bytes(dtype_of(*a)), width_b = element_bytes(dtype_of(*b));
    return width_a != width_b ? width_a > width_b : a->name < b->name;
  });

  const std::string header = header_text(ordered, metadata, path);
  const uint64_t length = header.size();
  AtomicFile file(path);
  file.write(&length, sizeof length);
  file.write(header.data(), static_cast<int64_t>(header.size()));
  for (const SafetensorsItem* item : ordered)
    write_numbers(*item, [&](const void* data, int64_t bytes) { file.write(data, bytes); });
  file.commit();
}

}  // namespace clip
