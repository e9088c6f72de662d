#include "models/zip_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "engine/check.h"
#include "models/strict_json.h"

namespace clip {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kDirectoryEntry = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kDescriptor = 0x08074b50, kEnd64 = 0x06064b50, kEnd64Place = 0x07064b50;
constexpr int64_t kLocalBytes = 30, kEndBytes = 22;
constexpr int64_t kEnd64PlaceBytes = 20;
constexpr int64_t kMaxComment = 65535, kMaxMembers = 1 << 20;
constexpr uint64_t kElsewhere = 0xffffffff;  // the true number stands in the zip64 record

// Little-endian numbers of a range; reading beyond its end is an error of the file.
class Fields {
 public:
  Fields(ZipFile::Bytes bytes, int64_t place, const std::string& path)
      : bytes_(bytes), place_(place), path_(path) {}

  uint64_t number(int width) {
    uint64_t value = 0;
    const ZipFile::Bytes taken = take(width);
    std::memcpy(&value, taken.data(), taken.size());
    return value;
  }

  /// An unsigned 64-bit place or size, which no file of ours exceeds.
  int64_t place_number(int width) {
    const uint64_t value = number(width);
    CLIP_CHECK(value <= uint64_t{INT64_MAX}, path_, ": damaged archive, a size of ", value);
    return static_cast<int64_t>(value);
  }

  void skip(int64_t bytes) { take(bytes); }

  std::string text(int64_t bytes) {
    const ZipFile::Bytes taken = take(bytes);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  void expect(uint32_t signature, const char* what) {
    CLIP_CHECK(number(4) == signature, path_, ": damaged archive, no ", what, " at byte ",
               place_ - 4);
  }

  bool at_end() const { return place_ == std::ssize(bytes_); }
  int64_t place() const { return place_; }

 private:
  ZipFile::Bytes take(int64_t bytes) {
    CLIP_CHECK(place_ >= 0 && place_ <= std::ssize(bytes_) && bytes <= std::ssize(bytes_) - place_,
               path_, ": damaged archive, it ends inside a record at byte ", place_);
    const auto taken = bytes_.subspan(static_cast<size_t>(place_), static_cast<size_t>(bytes));
    place_ += bytes;
    return taken;
  }

  ZipFile::Bytes bytes_;
  int64_t place_;
  const std::string& path_;
};

// The end record is the last thing in the file but for a comment.
int64_t find_end(ZipFile::Bytes bytes, const std::string& path) {
  const int64_t size = std::ssize(bytes);
  for (int64_t place = size - kEndBytes;
       place >= std::max<int64_t>(0, size - kEndBytes - kMaxComment); --place) {
    if (Fields(bytes, place, path).number(4) != kEnd) continue;
    if (Fields(bytes, place + 20, path).place_number(2) == size - place - kEndBytes) return place;
  }
  throw Error(concat(path, ": cut short, an archive without the directory at its end"));
}

struct Entry {
  std::string name;
  int64_t header_place = 0, bytes = 0;
  bool is_plain = true;  // neither compressed nor encrypted
};

Entry read_entry(Fields& fields, const std::string& path) {
  Entry entry;
  fields.expect(kDirectoryEntry, "directory entry");
  fields.skip(4);  // versions
  const uint64_t flags = fields.number(2), method = fields.number(2);
  fields.skip(8);  // time, checksum
  uint64_t packed = fields.number(4), size = fields.number(4);
  const int64_t name_bytes = fields.place_number(2), extra_bytes = fields.place_number(2);
  const int64_t comment_bytes = fields.place_number(2);
  fields.skip(8);  // disk, attributes
  uint64_t place = fields.number(4);
  entry.name = fields.text(name_bytes);
  const std::string extra = fields.text(extra_bytes);
  fields.skip(comment_bytes);
  constexpr uint64_t kEncrypted = 1;
  entry.is_plain = method == 0 && (flags & kEncrypted) == 0;

  const ZipFile::Bytes records{reinterpret_cast<const std::byte*>(extra.data()), extra.size()};
  for (int64_t next = 0; next + 4 <= extra_bytes;) {  // less is padding
    Fields record(records, next, path);
    const uint64_t kind = record.number(2);
    next += 4 + record.place_number(2);
    constexpr uint64_t kZip64 = 1;
    if (kind != kZip64) continue;
    for (uint64_t* value : {&size, &packed, &place})
      if (*value == kElsewhere) *value = record.number(8);
  }
  CLIP_CHECK((size == packed || !entry.is_plain) && packed <= uint64_t{INT64_MAX} &&
                 place <= uint64_t{INT64_MAX},
             path, ": damaged archive, member ", shown(entry.name), " of ", packed,
             " stored bytes has ", size);
  entry.bytes = static_cast<int64_t>(packed);
  entry.header_place = static_cast<int64_t>(place);
  return entry;
}

}  // namespace

bool is_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "PK\3\4", 4) == 0;
}

ZipFile::ZipFile(const MappedFile& file) : file_(file) {
  const Bytes bytes = file.bytes();
  const std::string& path = file.path();
  CLIP_CHECK(is_zip(bytes), path, ": no zip archive");
  const int64_t end_place = find_end(bytes, path);
  Fields end(bytes, end_place + 10, path);
  int64_t count = end.place_number(2), directory_bytes = end.place_number(4);
  int64_t place = end.place_number(4), directory_end = end_place;
  if (end_place >= kEnd64PlaceBytes &&
      Fields(bytes, end_place - kEnd64PlaceBytes, path).number(4) == kEnd64Place) {
    directory_end = Fields(bytes, end_place - kEnd64PlaceBytes + 8, path).place_number(8);
    Fields end64(bytes, directory_end, path);
    end64.expect(kEnd64, "zip64 end record");
    end64.skip(28);
    count = end64.place_number(8);
    directory_bytes = end64.place_number(8);
    place = end64.place_number(8);
  }
  CLIP_CHECK(place <= directory_end && directory_bytes == directory_end - place, path,
             ": damaged archive, its directory of ", directory_bytes, " bytes at ", place,
             " does not end where the end record begins, at ", directory_end);
  CLIP_CHECK(count <= kMaxMembers, path, ": an archive of ", count, " members");
  read_directory(place, directory_bytes, count);
}

void ZipFile::read_directory(int64_t place, int64_t bytes, int64_t count) {
  const Bytes directory =
      file_.bytes().subspan(static_cast<size_t>(place), static_cast<size_t>(bytes));
  Fields fields(directory, 0, path());
  std::vector<std::pair<Bytes, std::string>> order;
  std::set<std::string> names;
  for (int64_t i = 0; i < count; ++i) {
    const Entry entry = read_entry(fields, path());
    const Bytes data = locate(entry.name, entry.header_place, entry.bytes, place);
    CLIP_CHECK(names.insert(entry.name).second, path(), ": two members are called ",
               shown(entry.name));
    order.emplace_back(data, entry.name);
    if (entry.is_plain) members_[entry.name] = data;
  }
  CLIP_CHECK(fields.at_end(), path(), ": damaged archive, its directory holds more than the ",
             count, " members it tells of");
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first.data() + a.first.size() < b.first.data() + b.first.size();
  });
  for (size_t i = 1; i < order.size(); ++i)
    CLIP_CHECK(order[i].first.data() >= order[i - 1].first.data() + order[i - 1].first.size(),
               path(), ": damaged archive, the members ", shown(order[i - 1].second), " and ",
               shown(order[i].second), " overlap");
}

ZipFile::Bytes ZipFile::locate(const std::string& name, int64_t header_place, int64_t bytes,
                               int64_t directory_place) const {
  const Bytes before = file_.bytes().first(static_cast<size_t>(directory_place));
  Fields header(before, header_place, path());
  header.expect(kLocalHeader, "member");
  header.skip(kLocalBytes - 8);
  const int64_t name_bytes = header.place_number(2), extra_bytes = header.place_number(2);
  CLIP_CHECK(header.text(name_bytes) == name, path(), ": damaged archive, no member ", shown(name),
             " at byte ", header_place);
  header.skip(extra_bytes);
  CLIP_CHECK(bytes <= directory_place - header.place(), path(), ": damaged archive, member ",
             shown(name), " of ", bytes, " bytes at byte ", header.place(), " does not fit");
  return before.subspan(static_cast<size_t>(header.place()), static_cast<size_t>(bytes));
}

namespace {

void put(std::string& text, uint64_t value, size_t width) {
  text.append(reinterpret_cast<const char*>(&value), width);
}

// CRC-32 (polynomial 0xedb88320) of eight bytes at a time.
uint32_t checksum_of(uint32_t checksum, const void* data, int64_t bytes) {
  using Table = std::array<std::array<uint32_t, 256>, 8>;
  static const Table table = [] {
    Table made;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t value = byte;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0u);
      made[0][byte] = value;
    }
    for (size_t k = 1; k < 8; ++k)
      for (size_t byte = 0; byte < 256; ++byte)
        made[k][byte] = made[k - 1][byte] >> 8 ^ made[0][made[k - 1][byte] & 255];
    return made;
  }();
  const auto* from = static_cast<const unsigned char*>(data);
  checksum = ~checksum;
  for (; bytes >= 8; bytes -= 8, from += 8) {
    uint64_t word = 0;
    std::memcpy(&word, from, 8);
    word ^= checksum;
    checksum = 0;
    for (size_t k = 0; k < 8; ++k) checksum ^= table[7 - k][word >> 8 * k & 255];
  }
  for (; bytes > 0; --bytes) checksum = checksum >> 8 ^ table[0][(checksum ^ *from++) & 255];
  return ~checksum;
}

constexpr uint64_t kVersion = 20, kDescriptorFlag = 8;

}  // namespace

void ZipWriter::append(const void* data, int64_t bytes) {
  file_.write(data, bytes);
  size_ += bytes;
}

void ZipWriter::begin(const std::string& name, int64_t bytes) {
  finish_member();
  member_ = {name, size_, bytes, 0};
  constexpr int64_t kAlignment = 64, kRecordHead = 4;
  const int64_t unpadded = size_ + kLocalBytes + std::ssize(name) + kRecordHead;
  const int64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  CLIP_CHECK(unpadded + padding + bytes + (1 << 20) < int64_t{kElsewhere} && count_ < 65000, path_,
             ": a torch file of more than 4 GB is not written; choose safetensors");
  std::string header;
  put(header, kLocalHeader, 4);
  put(header, kVersion, 2);
  put(header, kDescriptorFlag, 2);
  put(header, 0, 2);  // stored
  put(header, 0, 4);  // no time
  put(header, 0, 4);  // the checksum follows the bytes
  put(header, static_cast<uint64_t>(bytes), 4);
  put(header, static_cast<uint64_t>(bytes), 4);
  put(header, name.size(), 2);
  put(header, static_cast<uint64_t>(kRecordHead + padding), 2);
  header += name;
  header += "FB";  // PyTorch's record of padding
  put(header, static_cast<uint64_t>(padding), 2);
  header.append(static_cast<size_t>(padding), 'Z');
  append(header.data(), std::ssize(header));
}

void ZipWriter::write(const void* data, int64_t bytes) {
  member_.checksum = checksum_of(member_.checksum, data, bytes);
  append(data, bytes);
}

void ZipWriter::finish_member() {
  if (member_.name.empty()) return;
  std::string descriptor;
  put(descriptor, kDescriptor, 4);
  put(descriptor, member_.checksum, 4);
  put(descriptor, static_cast<uint64_t>(member_.bytes), 4);
  put(descriptor, static_cast<uint64_t>(member_.bytes), 4);
  append(descriptor.data(), std::ssize(descriptor));

  put(directory_, kDirectoryEntry, 4);
  put(directory_, kVersion, 2);
  put(directory_, kVersion, 2);
  put(directory_, kDescriptorFlag, 2);
  put(directory_, 0, 2);  // stored
  put(directory_, 0, 4);  // no time
  put(directory_, member_.checksum, 4);
  put(directory_, static_cast<uint64_t>(member_.bytes), 4);
  put(directory_, static_cast<uint64_t>(member_.bytes), 4);
  put(directory_, member_.name.size(), 2);
  put(directory_, 0, 2 + 2);      // no extra record, no comment
  put(directory_, 0, 2 + 2 + 4);  // disk, attributes
  put(directory_, static_cast<uint64_t>(member_.place), 4);
  directory_ += member_.name;
  member_ = {};
  ++count_;
}

void ZipWriter::commit() {
  finish_member();
  const int64_t directory_bytes = std::ssize(directory_);
  std::string end;
  put(end, kEnd, 4);
  put(end, 0, 2 + 2);  // disks
  put(end, static_cast<uint64_t>(count_), 2);
  put(end, static_cast<uint64_t>(count_), 2);
  put(end, static_cast<uint64_t>(directory_bytes), 4);
  put(end, static_cast<uint64_t>(size_), 4);
  put(end, 0, 2);
  append(directory_.data(), directory_bytes);
  append(end.data(), std::ssize(end));
  file_.commit();
}

}  // namespace clip
