// Batches in a fixed order, made by worker threads ahead of the step that needs them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "models/dataset.h"
#include "models/preprocess.h"
#include "models/tokenizer.h"

namespace clip {

/// One batch on the host. Row i of the pictures belongs to caption i.
struct HostBatch {
  std::vector<uint8_t> images;  ///< [N, S, S, 3]
  /// N captions, start- and end-of-text included, no padding.
  std::vector<std::vector<int32_t>> tokens;
  std::vector<int64_t> samples;  ///< N indices into the data set
  int64_t first_position = 0;    ///< of row 0 in the endless order: step * G + global row
};

struct LoaderOptions {
  int64_t batch_size = 0;      ///< N of this rank
  int64_t image_size = 0;      ///< S
  Preprocess preprocess = {};  ///< of pictures that are not augmented
  int64_t context_length = 0;  ///< captions are cut to this many tokens
  uint64_t seed = 0;
  int64_t workers = 2;  ///< threads, of lowered priority; 0 makes batches in next()
  bool shuffle = true;  ///< else sample (step * G + row) mod size
  /// Random resized crop (0.9 to 1.0 of the area); else prepare_image. Pictures whose
  /// Dataset::native_size() is S are taken as they are.
  bool augment = true;
  int64_t rank = 0;  ///< this rank takes rows [rank * N, (rank + 1) * N) of each global batch
  int64_t ranks = 1;
};

/// Where position `position` of an epoch's order lies in a data set of `size` samples: for fixed
/// (seed, epoch, size) a permutation of 0 ... size - 1, computed without storing it.
int64_t shuffled_index(uint64_t seed, int64_t epoch, int64_t size, int64_t position);

/// Batch of step k holds positions [k * G, (k + 1) * G) of an endless sequence of epochs, each a
/// permutation from (seed, epoch); crops depend on (seed, position). So any step's batch can be
/// made again, at any number of workers. A broken sample is replaced by another one drawn from
/// (seed, position, attempt).
///
/// The threads share the rows of a batch, so the first batch comes as soon as they can make it, and
/// stay at most kPrefetch batches ahead.
class DataLoader {
 public:
  static constexpr size_t kPrefetch = 3;
  static constexpr int64_t kMaxAttempts = 100;

  /// throws clip::Error if the data set is empty or an option makes no sense
  DataLoader(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const Tokenizer> tokenizer,
             LoaderOptions options, int64_t first_step = 0);
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  /// The next step's batch. A worker's error other than a broken sample is thrown here, and again
  /// by each further call.
  /// throws clip::Error if every one of kMaxAttempts samples tried for one row is broken
  HostBatch next();

  int64_t steps_per_epoch() const;  ///< ceil(size / G)

  /// Replaced in the batches handed out so far.
  int64_t broken_samples() const { return broken_samples_; }

  /// One sentence for each newly broken sample of the batches handed out, each named once.
  std::vector<std::string> take_warnings();

 private:
  struct Broken {
    int64_t index;
    std::string reason;
  };
  /// What a row ran into.
  struct Row {
    std::vector<Broken> broken;
    std::exception_ptr error;
  };
  /// A batch in the making. Rows are claimed and counted under mutex_, written without it.
  struct Slot {
    int64_t step = 0;
    HostBatch batch;
    std::vector<Row> rows;
    int64_t claimed = 0;
    int64_t done = 0;
    std::exception_ptr error;  ///< there was no memory for the batch
  };

  std::unique_ptr<Slot> open_slot(int64_t step) const;
  void make_row(Slot& slot, int64_t row) const;
  Sample find_sample(int64_t position, int64_t& index, std::vector<Broken>& broken) const;
  Image fit(Image image, int64_t position) const;
  HostBatch deliver(std::unique_ptr<Slot> slot);
  void note(const Row& row);

  void work(std::stop_token stop);
  Slot* unclaimed_slot();
  std::unique_ptr<Slot> wait_for_slot();

  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  LoaderOptions options_;
  int64_t step_;  ///< what next() returns
  std::exception_ptr failure_;

  int64_t broken_samples_ = 0;
  std::unordered_set<int64_t> named_;
  std::vector<std::string> warnings_;

  std::mutex mutex_;                         ///< guards the members below
  std::condition_variable_any work_;         ///< a row can be claimed or a slot opened
  std::condition_variable finished_;         ///< a slot is complete
  std::deque<std::unique_ptr<Slot>> slots_;  ///< in order of their steps
  int64_t next_opened_;
  bool opening_ = false;

  std::vector<std::jthread> threads_;  ///< last: they stop before anything they use goes
};

}  // namespace clip
