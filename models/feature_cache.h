// What a locked tower makes of each sample, kept on disk: a sample passes the tower once.
#pragma once

#include <string>
#include <vector>

#include "models/atomic_file.h"
#include "models/training.h"

namespace clip {

/// A file of records of equal size, record i for sample i of a data set: a hash of what the tower
/// was given, a checksum, and the features. It grows as records are written, in any order and by any
/// number of processes; nothing of it is kept in memory. A record that was cut short by a crash, or
/// damaged, or made from another input, is not used.
class FeatureFile {
 public:
  /// Opens or makes the file. throws clip::Error that names the path
  FeatureFile(const std::string& path, int64_t embed_dim);

  /// Reads the features [E] of a sample whose input has this hash; false if they are not there.
  bool find(int64_t sample, uint64_t input, float* features);
  void store(int64_t sample, uint64_t input, const float* features);

  /// One sentence about the first damaged record or failed write since the last call, if any.
  std::vector<std::string> take_warnings();

 private:
  int64_t record_bytes() const { return 16 + embed_dim_ * static_cast<int64_t>(sizeof(float)); }

  std::string path_;
  int64_t embed_dim_;
  FileDescriptor file_;
  bool damage_told_ = false, can_write_ = true;
  std::vector<std::string> warnings_;
};

/// Features of a model's locked towers for the batches of a DataLoader.
class LockedFeatures {
 public:
  /// folder     of the files, made if need be; their names hold a hash of the tower's weights, what
  ///            it computes in, and `data`, so that others' files are left alone
  /// data       Dataset::describe()
  /// images     also of a locked image tower: worth while if a sample's picture is the same each time
  LockedFeatures(const ClipModel& model, const std::string& folder, const std::string& data,
                 bool images);

  /// Gives the micro-batches of `host` the features of the locked towers: those that are not on disk
  /// are computed, without a tape, and written.
  void fill(std::vector<Batch>& micro_batches, const HostBatch& host);

  std::vector<std::string> take_warnings();

 private:
  /// One locked tower.
  struct Tower {
    bool image;
    FeatureFile file;
  };
  Tensor features(Tower& tower, const HostBatch& host, int64_t begin, int64_t end) const;

  const ClipModel& model_;
  std::vector<Tower> towers_;
};

}  // namespace clip
