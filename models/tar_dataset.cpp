// WebDataset shards, read at random places: a plain tar stores each member's bytes as they are, so
// the index is a list of (name, offset, size) and a sample is one or two preads.
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>
#include <type_traits>
#include <unordered_map>

#include "engine/parallel.h"
#include "models/dataset.h"
#include "models/dataset_files.h"
#include "models/shard_pattern.h"

namespace clip {
namespace {

/// Bytes of a shard.
struct Extent {
  int64_t offset = 0;
  int64_t size = -1;  ///< -1: there is no such member
};

struct TarSample {
  std::string picture_name;
  Extent picture;
  Extent caption;
};

struct TarIndex {
  std::vector<TarSample> samples;
  int64_t captions_alone = 0;
};

/// A file opened for reading; closes itself. Opened for each sample, not kept: there may be more
/// shards than a process may have files open.
class ReadOnlyFile {
 public:
  explicit ReadOnlyFile(const std::string& path) : path_(path), fd_(open(path.c_str(), O_RDONLY)) {
    CLIP_CHECK(fd_ >= 0, "cannot open ", path, ": ", std::strerror(errno));
  }
  ~ReadOnlyFile() { close(fd_); }
  ReadOnlyFile(const ReadOnlyFile&) = delete;
  ReadOnlyFile& operator=(const ReadOnlyFile&) = delete;

  const std::string& path() const { return path_; }

  int64_t size() const {
    struct stat status {};
    CLIP_CHECK(fstat(fd_, &status) == 0, "cannot read ", path_, ": ", std::strerror(errno));
    return status.st_size;
  }

  std::string read(const Extent& extent) const {
    std::string bytes(static_cast<size_t>(extent.size), '\0');
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t count = pread(fd_, bytes.data() + done, bytes.size() - done,
                                  extent.offset + static_cast<int64_t>(done));
      if (count < 0 && errno == EINTR) continue;
      CLIP_CHECK(count >= 0, "cannot read ", path_, ": ", std::strerror(errno));
      CLIP_CHECK(count > 0, path_, " has become shorter since it was indexed");
      done += static_cast<size_t>(count);
    }
    return bytes;
  }

 private:
  std::string path_;
  int fd_;
};

struct CloseArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using ArchiveReader = std::unique_ptr<archive, CloseArchive>;

ArchiveReader open_archive(const std::string& shard) {
  // Small: after each skip libarchive reads one block, of which the header is 512 bytes.
  constexpr size_t kBlock = 4096;
  ArchiveReader reader(archive_read_new());
  CLIP_CHECK(reader != nullptr, "cannot read ", shard, ": out of memory");
  archive_read_support_format_tar(reader.get());
  // Understood only so that a compressed shard can be told from a file that is no tar.
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_bzip2(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_support_filter_lz4(reader.get());
  const int status = archive_read_open_filename(reader.get(), shard.c_str(), kBlock);
  CLIP_CHECK(archive_filter_code(reader.get(), 0) <= ARCHIVE_FILTER_NONE, "the shard ", shard,
             " is compressed (", archive_filter_name(reader.get(), 0),
             "): samples are read at random places, which takes a plain tar; unpack it first");
  CLIP_CHECK(status == ARCHIVE_OK, "the shard ", shard,
             " is no tar archive: ", archive_error_string(reader.get()));
  return reader;
}

/// The next member's header; null at the end of the archive.
archive_entry* next_member(archive* reader, const std::string& shard) {
  archive_entry* entry = nullptr;
  const int status = archive_read_next_header(reader, &entry);
  if (status == ARCHIVE_EOF) return nullptr;
  // Warnings are about names or owners that this machine's locale cannot spell.
  CLIP_CHECK(status == ARCHIVE_OK || status == ARCHIVE_WARN, "the shard ", shard,
             " is no whole tar archive: ", archive_error_string(reader));
  return entry;
}

std::string member_name(archive_entry* entry) {
  const char* name = archive_entry_pathname_utf8(entry);
  if (name == nullptr) name = archive_entry_pathname(entry);
  return name == nullptr ? "" : name;
}

/// "a/0012.seg.png" is member "seg.png" of sample "a/0012", as in WebDataset.
struct MemberKey {
  std::string sample;
  std::string extension;
};

MemberKey split_member_name(const std::string& name) {
  const size_t slash = name.rfind('/');
  const size_t base = slash == std::string::npos ? 0 : slash + 1;
  const size_t dot = name.find('.', base);
  // A hidden file (".x.jpg") has no base name.
  if (dot == std::string::npos || dot == base) return {};
  return {name.substr(0, dot), lower_case(name.substr(dot + 1))};
}

/// Members become samples by their names. A shard that joins two shards may use a name twice: a
/// member that its sample has already opens a new one.
class SampleGrouper {
 public:
  explicit SampleGrouper(const std::string& text_extension) : text_extension_(text_extension) {}

  void add(const std::string& name, const Extent& extent) {
    const MemberKey key = split_member_name(name);
    const bool is_picture = is_picture_extension(key.extension);
    if (!is_picture && key.extension != text_extension_) return;
    auto [place, is_new] = newest_.try_emplace(key.sample, samples_.size());
    if (!is_new && is_full(samples_[place->second], name, is_picture)) {
      place->second = samples_.size();
      is_new = true;
    }
    if (is_new) samples_.emplace_back();
    TarSample& sample = samples_[place->second];
    if (!is_picture) {
      sample.caption = extent;
    } else if (sample.picture.size < 0) {  // else it comes in two formats: the first is taken
      sample.picture_name = name;
      sample.picture = extent;
    }
  }

  TarIndex finish() {
    const auto no_picture = [](const TarSample& sample) { return sample.picture.size < 0; };
    const auto alone = static_cast<int64_t>(std::erase_if(samples_, no_picture));
    return {std::move(samples_), alone};
  }

 private:
  static bool is_full(const TarSample& sample, const std::string& name, bool is_picture) {
    return is_picture ? sample.picture_name == name : sample.caption.size >= 0;
  }

  const std::string& text_extension_;
  std::vector<TarSample> samples_;
  std::unordered_map<std::string, size_t> newest_;  ///< base name -> its newest sample
};

TarIndex index_shard(const std::string& shard, const std::string& text_extension) {
  const int64_t shard_size = ReadOnlyFile(shard).size();
  const ArchiveReader reader = open_archive(shard);
  SampleGrouper grouper(text_extension);
  while (archive_entry* entry = next_member(reader.get(), shard)) {
    if (archive_entry_filetype(entry) != AE_IFREG) continue;
    const std::string name = member_name(entry);
    // Headers are read and nothing of the data yet, so the bytes consumed are the data's offset.
    const Extent extent{archive_filter_bytes(reader.get(), -1), archive_entry_size(entry)};
    // A skip past the end of a file is no error to the file system.
    CLIP_CHECK(extent.size >= 0 && extent.size <= shard_size - extent.offset, "the shard ", shard,
               " is cut short: its member ", name, " has ", extent.size, " bytes from byte ",
               extent.offset, " on, the file ", shard_size);
    grouper.add(name, extent);
  }
  TarIndex index = grouper.finish();
  CLIP_CHECK(!index.samples.empty(), "the shard ", shard, " holds no sample: expected pictures (",
             kPictureExtensions, "), each with a .", text_extension, " of the same base name");
  return index;
}

class TarDataset : public Dataset {
 public:
  TarDataset(const std::string& pattern, const std::string& text_extension)
      : pattern_(pattern), text_extension_(text_extension), shards_(expand_shard_pattern(pattern)) {
    std::vector<TarIndex> indexes(shards_.size());
    std::vector<std::exception_ptr> errors(shards_.size());
    parallel_for_dynamic(static_cast<int64_t>(shards_.size()), [&](int64_t i) {
      const auto shard = static_cast<size_t>(i);
      try {
        indexes[shard] = index_shard(shards_[shard], text_extension_);
      } catch (...) {
        errors[shard] = std::current_exception();  // must not leave the parallel region
      }
    });
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    for (TarIndex& index : indexes) {
      first_.push_back(size_);
      size_ += static_cast<int64_t>(index.samples.size());
      captions_alone_ += index.captions_alone;
      samples_.push_back(std::move(index.samples));
    }
  }

  int64_t size() const override { return size_; }

  Sample get(int64_t index, int64_t) const override {
    return read(index, [this](const ReadOnlyFile& shard, const TarSample& sample) {
      std::string text = caption_in(shard, sample);
      return Sample{picture_in(shard, sample), std::move(text)};
    });
  }

  std::string caption(int64_t index) const override {
    return read(index, [this](const ReadOnlyFile& shard, const TarSample& sample) {
      return caption_in(shard, sample);
    });
  }

  Image picture(int64_t index) const override { return read(index, picture_in); }

  std::vector<std::string> captions() const override {
    return spread_captions(size(), [this](int64_t index) { return caption(index); });
  }

  std::string describe() const override {
    std::string text = concat("tar ", pattern_, ": ", size(), " samples in ", shards_.size(),
                              shards_.size() == 1 ? " shard" : " shards");
    if (captions_alone_ > 0) {
      text += concat(" (captions left out for want of a picture: ", captions_alone_, ")");
    }
    return text;
  }

 private:
  /// What read_from(shard, sample) gives, with any clip::Error turned into BrokenSample.
  template <class ReadFrom>
  std::invoke_result_t<ReadFrom, const ReadOnlyFile&, const TarSample&> read(
      int64_t index, const ReadFrom& read_from) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), index);
    const auto shard = static_cast<size_t>(after - first_.begin()) - 1;
    const TarSample& sample = samples_[shard].at(static_cast<size_t>(index - first_[shard]));
    try {
      return read_from(ReadOnlyFile(shards_[shard]), sample);
    } catch (const Error& error) {
      throw BrokenSample(error.what());
    }
  }

  std::string caption_in(const ReadOnlyFile& shard, const TarSample& sample) const {
    CLIP_CHECK(sample.caption.size >= 0, shard.path(), ": ", sample.picture_name, " has no .",
               text_extension_, " of the same base name");
    return std::string(trim(shard.read(sample.caption)));
  }

  static Image picture_in(const ReadOnlyFile& shard, const TarSample& sample) {
    const std::string bytes = shard.read(sample.picture);
    return decode_image({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                        concat(shard.path(), ": ", sample.picture_name));
  }

  std::string pattern_, text_extension_;
  std::vector<std::string> shards_;
  std::vector<int64_t> first_;  ///< of each shard, the index of its first sample
  std::vector<std::vector<TarSample>> samples_;
  int64_t size_ = 0;
  int64_t captions_alone_ = 0;
};

}  // namespace

std::unique_ptr<Dataset> open_tar_dataset(const std::string& pattern,
                                          const std::string& text_extension) {
  return std::make_unique<TarDataset>(pattern, text_extension);
}

}  // namespace clip
