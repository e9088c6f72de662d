#include "models/feature_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "engine/random.h"

namespace clip {
namespace {

template <class T>
std::string_view bytes_of(const T* values, int64_t count) {
  return {reinterpret_cast<const char*>(values), static_cast<size_t>(count) * sizeof(T)};
}

/// The head of a record. All zero: never written, since a file's holes read as zeros.
struct Head {
  uint64_t input = 0, checksum = 0;
};
static_assert(sizeof(Head) == 16);

uint64_t checksum_of(int64_t sample, uint64_t input, std::string_view features) {
  return random_stream(features) ^ philox(input, 0, static_cast<uint64_t>(sample))[0];
}

std::string reason(int error) { return std::generic_category().message(error); }

}  // namespace

FeatureFile::FeatureFile(const std::string& path, int64_t embed_dim)
    : path_(path),
      embed_dim_(embed_dim),
      // O_NONBLOCK: a pipe of that name is refused below, not waited for.
      file_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666)) {
  CLIP_CHECK(file_.is_open(), "cannot open the features ", path, ": ", reason(errno));
  struct stat status {};
  CLIP_CHECK(::fstat(file_.number(), &status) == 0 && S_ISREG(status.st_mode),
             "cannot keep features in ", path, ": it is no regular file");
}

bool FeatureFile::find(int64_t sample, uint64_t input, float* features) {
  std::vector<char> record(static_cast<size_t>(record_bytes()));
  const ssize_t got =
      ::pread(file_.number(), record.data(), record.size(), sample * record_bytes());
  Head head;
  if (got >= static_cast<ssize_t>(sizeof head)) std::memcpy(&head, record.data(), sizeof head);
  if (head.input == 0 && head.checksum == 0 && got >= 0) return false;
  const std::string_view stored(record.data() + sizeof head, record.size() - sizeof head);
  const bool whole = got == static_cast<ssize_t>(record.size()) &&
                     head.checksum == checksum_of(sample, head.input, stored);
  if (whole && head.input == input) {
    std::memcpy(features, stored.data(), stored.size());
    return true;
  }
  if (!whole && !std::exchange(damage_told_, true))
    warnings_.push_back(concat(path_, ": the features of sample ", sample,
                               " are damaged; such features are computed again"));
  return false;
}

void FeatureFile::store(int64_t sample, uint64_t input, const float* features) {
  if (!can_write_) return;
  const std::string_view stored = bytes_of(features, embed_dim_);
  const Head head{input, checksum_of(sample, input, stored)};
  std::string record(bytes_of(&head, 1));
  record += stored;
  const ssize_t put =
      ::pwrite(file_.number(), record.data(), record.size(), sample * record_bytes());
  if (put == static_cast<ssize_t>(record.size())) return;
  can_write_ = false;  // training goes on without
  warnings_.push_back(concat("cannot write the features ", path_, ": ",
                             put < 0 ? reason(errno) : "the disk is full",
                             "; from now on they are computed each time"));
}

std::vector<std::string> FeatureFile::take_warnings() { return std::exchange(warnings_, {}); }

namespace {

/// Changes with everything that a tower's features depend on beside the sample.
uint64_t hash_of_tower(const ClipModel& model, bool image, const std::string& data) {
  const DType dtype = model.parameters.find("visual.conv1.weight").dtype();
  std::string text = concat(to_json(model.clip.config), dtype, '\n', data, '\n');
  for (const auto* list : {&model.parameters.parameters(), &model.parameters.buffers()})
    for (const Parameter& item : *list) {
      if (!is_locked(item.name, {.image = image, .text = !image})) continue;
      const Tensor& value = item.variable.value();
      std::string bytes(static_cast<size_t>(value.bytes()), '\0');
      value.copy_to_host(bytes.data());
      text += concat(item.name, ' ', random_stream(bytes), '\n');
    }
  return random_stream(text);
}

}  // namespace

LockedFeatures::LockedFeatures(const ClipModel& model, const std::string& folder,
                               const std::string& data, bool images)
    : model_(model) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  CLIP_CHECK(!failure, "cannot make the folder of features ", folder, ": ", failure.message());
  const auto add = [&](bool image) {
    const std::string name = concat(image ? "image-" : "text-", std::hex,
                                    hash_of_tower(model, image, data), ".features");
    towers_.push_back({image, FeatureFile((std::filesystem::path(folder) / name).string(),
                                          model.clip.config.embed_dim)});
  };
  if (model.clip.locked.image && images) add(true);
  if (model.clip.locked.text) add(false);
}

void LockedFeatures::fill(std::vector<Batch>& micro_batches, const HostBatch& host) {
  int64_t begin = 0;
  for (Batch& batch : micro_batches) {
    const int64_t end = begin + batch.images.size(0);
    for (Tower& tower : towers_)
      (tower.image ? batch.image_features : batch.text_features) =
          features(tower, host, begin, end);
    begin = end;
  }
}

/// [end - begin, E] of the rows [begin, end) of a batch.
Tensor LockedFeatures::features(Tower& tower, const HostBatch& host, int64_t begin,
                                int64_t end) const {
  Backend& backend = model_.clip.logit_scale.backend();
  const int64_t width = model_.clip.config.embed_dim, side = model_.clip.config.vision.image_size,
                pixels = side * side * 3;
  std::vector<float> rows(static_cast<size_t>((end - begin) * width));
  const auto row_of = [&](int64_t i) { return rows.data() + (i - begin) * width; };
  std::vector<int64_t> missing;
  std::vector<uint64_t> inputs;
  for (int64_t i = begin; i < end; ++i) {
    const auto& caption = host.tokens[static_cast<size_t>(i)];
    const uint64_t input =
        random_stream(tower.image ? bytes_of(host.images.data() + i * pixels, pixels)
                                  : bytes_of(caption.data(), static_cast<int64_t>(caption.size())));
    if (tower.file.find(host.samples[static_cast<size_t>(i)], input, row_of(i))) continue;
    missing.push_back(i);
    inputs.push_back(input);
  }
  if (!missing.empty()) {
    std::vector<uint8_t> images;
    std::vector<std::vector<int32_t>> captions;
    for (const int64_t i : missing) {
      const auto first = host.images.begin() + i * pixels;
      if (tower.image) images.insert(images.end(), first, first + pixels);
      if (!tower.image) captions.push_back(host.tokens[static_cast<size_t>(i)]);
    }
    TapePause pause;
    const auto count = static_cast<int64_t>(missing.size());
    const Variable encoded = tower.image ? model_.clip.encode_image(Tensor::from<uint8_t>(
                                               backend, {count, side, side, 3}, images))
                                         : model_.clip.encode_text(pack_tokens(captions, backend));
    const auto computed = l2_normalize(encoded).value().to_vector<float>();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t i = missing[static_cast<size_t>(k)];
      std::copy_n(computed.data() + k * width, width, row_of(i));
      tower.file.store(host.samples[static_cast<size_t>(i)], inputs[static_cast<size_t>(k)],
                       row_of(i));
    }
  }
  return Tensor::from<float>(backend, {end - begin, width}, rows);
}

std::vector<std::string> LockedFeatures::take_warnings() {
  std::vector<std::string> all;
  for (Tower& tower : towers_)
    for (std::string& warning : tower.file.take_warnings()) all.push_back(std::move(warning));
  return all;
}

}  // namespace clip
