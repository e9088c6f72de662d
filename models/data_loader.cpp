#include "models/data_loader.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "engine/random.h"
#include "models/image.h"

namespace clip {
namespace {

/// Random words that a position owns in each stream; a crop takes at most 44.
constexpr uint64_t kWordsPerPosition = 256;

Random random_at(uint64_t seed, std::string_view stream, int64_t position) {
  Random random(seed, random_stream(stream));
  random.skip_to(static_cast<uint64_t>(position) * kWordsPerPosition);
  return random;
}

void check_options(const LoaderOptions& options, int64_t first_step) {
  CLIP_CHECK(options.batch_size > 0, "the batch size must be positive, got ", options.batch_size);
  CLIP_CHECK(options.image_size > 0, "the image size must be positive, got ", options.image_size);
  CLIP_CHECK(options.context_length > 1, "the context length must be at least 2, got ",
             options.context_length);
  CLIP_CHECK(options.workers >= 0, "the number of workers must not be negative, got ",
             options.workers);
  CLIP_CHECK(options.ranks > 0 && options.rank >= 0 && options.rank < options.ranks, "rank ",
             options.rank, " is not one of ", options.ranks, " ranks");
  CLIP_CHECK(first_step >= 0, "the first step must not be negative, got ", first_step);
}

}  // namespace

int64_t shuffled_index(uint64_t seed, int64_t epoch, int64_t size, int64_t position) {
  // A Feistel network over pairs (left, right) of Z_a x Z_b: each half round adds to one part a
  // random function of the other, which can be undone, so that all of them permute the a * b >=
  // size pairs. Values past the end are sent through again until one lies inside: the rest of the
  // cycle they are on leads back, so this permutes 0 ... size - 1 (Black and Rogaway 2002, "Ciphers
  // with arbitrary finite domains"). Fewer than a of the pairs lie outside: a second turn is rare.
  constexpr int kHalfRounds = 8;
  const auto a = static_cast<uint64_t>(std::ceil(std::sqrt(static_cast<double>(size))));
  const auto end = static_cast<uint64_t>(size);
  const uint64_t b = (end + a - 1) / a;
  const uint64_t stream =
      random_stream("loader/order") + static_cast<uint64_t>(epoch) * kHalfRounds;
  const auto random_word = [&](uint64_t half_round, uint64_t value) {
    const std::array<uint32_t, 4> words = philox(seed, stream + half_round, value);
    return uint64_t{words[1]} << 32 | words[0];
  };
  auto value = static_cast<uint64_t>(position);
  do {
    uint64_t left = value % a, right = value / a;
    for (uint64_t half_round = 0; half_round < kHalfRounds; half_round += 2) {
      left = (left + random_word(half_round, right) % a) % a;
      right = (right + random_word(half_round + 1, left) % b) % b;
    }
    value = right * a + left;
  } while (value >= end);
  return static_cast<int64_t>(value);
}

DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset,
                       std::shared_ptr<const Tokenizer> tokenizer, LoaderOptions options,
                       int64_t first_step)
    : dataset_(std::move(dataset)),
      tokenizer_(std::move(tokenizer)),
      options_(options),
      step_(first_step),
      next_opened_(first_step) {
  CLIP_CHECK(dataset_ && tokenizer_, "a data loader needs a data set and a tokenizer");
  CLIP_CHECK(dataset_->size() > 0, "the data set holds no sample: ", dataset_->describe());
  check_options(options_, first_step);
  try {
    for (int64_t i = 0; i < options_.workers; ++i) {
      threads_.emplace_back([this](std::stop_token stop) { work(stop); });
    }
  } catch (const std::system_error& error) {
    throw Error(concat("cannot start ", options_.workers, " loader threads: ", error.what()));
  }
}

DataLoader::~DataLoader() {
  // All at once; the destructor of each thread would stop and join one after the other.
  for (std::jthread& thread : threads_) thread.request_stop();
}

int64_t DataLoader::steps_per_epoch() const {
  const int64_t global_batch = options_.batch_size * options_.ranks;
  return (dataset_->size() + global_batch - 1) / global_batch;
}

std::vector<std::string> DataLoader::take_warnings() { return std::exchange(warnings_, {}); }

HostBatch DataLoader::next() {
  if (failure_) std::rethrow_exception(failure_);
  if (!threads_.empty()) return deliver(wait_for_slot());
  std::unique_ptr<Slot> slot = open_slot(step_);
  for (; slot->claimed < options_.batch_size; ++slot->claimed) make_row(*slot, slot->claimed);
  return deliver(std::move(slot));
}

/// Counts and names broken samples here, in the caller's order of rows, and not where they are met:
/// so that the number of workers changes neither.
HostBatch DataLoader::deliver(std::unique_ptr<Slot> slot) {
  failure_ = slot->error;
  for (const Row& row : slot->rows) {
    if (failure_) break;
    note(row);
    failure_ = row.error;
  }
  if (failure_) std::rethrow_exception(failure_);
  ++step_;
  return std::move(slot->batch);
}

void DataLoader::note(const Row& row) {
  for (const Broken& broken : row.broken) {
    ++broken_samples_;
    if (!named_.insert(broken.index).second) continue;
    warnings_.push_back(concat("sample ", broken.index, " is left out: ", broken.reason));
  }
}

/// Never throws, since workers call it: an error is kept for next(). Likewise make_row().
std::unique_ptr<DataLoader::Slot> DataLoader::open_slot(int64_t step) const {
  const int64_t row_size = options_.image_size * options_.image_size * 3;
  auto slot = std::make_unique<Slot>();
  slot->step = step;
  try {
    slot->batch.images.resize(static_cast<size_t>(options_.batch_size * row_size));
    slot->batch.tokens.resize(static_cast<size_t>(options_.batch_size));
    slot->batch.samples.resize(static_cast<size_t>(options_.batch_size));
    slot->batch.first_position = (step * options_.ranks + options_.rank) * options_.batch_size;
    slot->rows.resize(static_cast<size_t>(options_.batch_size));
  } catch (const std::exception& error) {
    slot->error = std::make_exception_ptr(
        Error(concat("no memory for a batch of ", options_.batch_size, " pictures of ",
                     options_.image_size, " x ", options_.image_size, ": ", error.what())));
    slot->claimed = slot->done = options_.batch_size;
  }
  return slot;
}

void DataLoader::make_row(Slot& slot, int64_t row) const {
  const auto place = static_cast<size_t>(row);
  const int64_t position = slot.batch.first_position + row;
  try {
    Sample sample = find_sample(position, slot.batch.samples[place], slot.rows[place].broken);
    const Image image = fit(std::move(sample.image), position);
    const size_t bytes = slot.batch.images.size() / slot.batch.tokens.size();
    CLIP_CHECK(image.pixels.size() == bytes, "sample for position ", position, " has ",
               image.pixels.size(), " bytes, expected ", bytes);
    std::memcpy(slot.batch.images.data() + place * bytes, image.pixels.data(), bytes);
    slot.batch.tokens[place] = tokenizer_->tokenize(sample.caption, options_.context_length);
  } catch (...) {
    slot.rows[place].error = std::current_exception();
  }
}

Sample DataLoader::find_sample(int64_t position, int64_t& index,
                               std::vector<Broken>& broken) const {
  const int64_t size = dataset_->size();
  const int64_t epoch = position / size;
  index = position % size;
  if (options_.shuffle) index = shuffled_index(options_.seed, epoch, size, index);
  Random replacement = random_at(options_.seed, "loader/replacement", position);
  for (int64_t attempt = 0; attempt < kMaxAttempts; ++attempt) {
    try {
      return dataset_->get(index, epoch);
    } catch (const BrokenSample& error) {
      broken.push_back({index, error.what()});
    }
    index = replacement.below(size);
  }
  throw Error(concat("all of ", kMaxAttempts, " samples tried for one row are broken (",
                     dataset_->describe(), "), the first: ", broken.front().reason));
}

Image DataLoader::fit(Image image, int64_t position) const {
  constexpr double kMinScale = 0.9, kMaxScale = 1.0;  // of the area; what open_clip trains with
  if (dataset_->native_size() == options_.image_size) return image;
  if (!options_.augment) return prepare_image(image, options_.image_size, options_.preprocess);
  Random random = random_at(options_.seed, "loader/crop", position);
  return random_resized_crop(image, options_.image_size, kMinScale, kMaxScale, random);
}

void DataLoader::work(std::stop_token stop) {
  // On Linux this is the calling thread's own priority: the step's threads go first.
  [[maybe_unused]] const int priority = nice(10);
  std::unique_lock lock(mutex_);
  while (true) {
    Slot* slot = nullptr;
    work_.wait(lock, stop, [&] {
      slot = unclaimed_slot();
      return slot != nullptr || (!opening_ && slots_.size() < kPrefetch);
    });
    if (stop.stop_requested()) return;
    if (slot != nullptr) {
      const int64_t row = slot->claimed++;
      lock.unlock();
      make_row(*slot, row);
      lock.lock();
      // From the last row on the slot belongs to next().
      if (++slot->done == options_.batch_size) finished_.notify_one();
    } else {
      opening_ = true;  // one at a time, so that slots stay in order
      const int64_t step = next_opened_++;
      lock.unlock();
      std::unique_ptr<Slot> opened = open_slot(step);  // clears megabytes: not under the lock
      lock.lock();
      slots_.push_back(std::move(opened));
      opening_ = false;
      work_.notify_all();
      finished_.notify_one();  // a slot without memory is complete at once
    }
  }
}

DataLoader::Slot* DataLoader::unclaimed_slot() {
  for (const std::unique_ptr<Slot>& slot : slots_) {
    if (slot->claimed < options_.batch_size) return slot.get();
  }
  return nullptr;
}

std::unique_ptr<DataLoader::Slot> DataLoader::wait_for_slot() {
  std::unique_lock lock(mutex_);
  finished_.wait(lock,
                 [this] { return !slots_.empty() && slots_.front()->done == options_.batch_size; });
  std::unique_ptr<Slot> slot = std::move(slots_.front());
  slots_.pop_front();
  work_.notify_one();
  return slot;
}

}  // namespace clip
